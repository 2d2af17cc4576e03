# SPDX-License-Identifier: BSD-3-Clause
# libnumalloc.a inside libraries that come and go, and beside programs' own names; what the libraries show.
foreach(name unload own_names exports)
  add_executable(static_${name} ${CMAKE_CURRENT_LIST_DIR}/${name}.c)
  target_link_libraries(static_${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  set_target_properties(static_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/bin)
endforeach()
target_link_libraries(static_own_names PRIVATE numalloc_static numalloc_flags)
add_test(NAME static_own_names COMMAND static_own_names)
target_link_libraries(static_exports PRIVATE numalloc_static numalloc_flags)
set_target_properties(static_exports PROPERTIES ENABLE_EXPORTS ON)
if(NOT NUMALLOC_SANITIZE)
  add_test(NAME static_exports COMMAND static_exports)
  set_tests_properties(static_exports PROPERTIES ENVIRONMENT "LD_PRELOAD=$<TARGET_FILE:numalloc_preload>")
endif()
add_library(plugin MODULE ${CMAKE_CURRENT_LIST_DIR}/plugin.c)
target_link_libraries(plugin PRIVATE numalloc_static numalloc_flags)
set_target_properties(plugin PROPERTIES C_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/bin)
if(NOT NUMALLOC_SANITIZE) # a sanitizer's runtime keeps libraries
  add_test(NAME static_unload COMMAND static_unload $<TARGET_FILE:plugin>)
  set_tests_properties(static_unload PROPERTIES TIMEOUT 60 ENVIRONMENT "NUMALLOC_RESERVE=1G")
  # Its thread runs: it stays.
  add_test(NAME static_unload_purger COMMAND static_unload $<TARGET_FILE:plugin>)
  set_tests_properties(static_unload_purger PROPERTIES TIMEOUT 60
    ENVIRONMENT "NUMALLOC_RESERVE=1G;NUMALLOC_PURGER=1;NUMALLOC_PURGE_DELAY=1")
endif()
# Of the preload library malloc's family is seen too, without a version, as it takes the place of the C library's.
add_test(NAME static_names COMMAND sh -e -c "
  ${CMAKE_NM} -g --defined-only $<TARGET_FILE:numalloc_static> | awk 'NF == 3 && $3 !~ /^numalloc/ { print; bad = 1 } END { exit bad }'
  ${CMAKE_NM} -D --defined-only $<TARGET_FILE:numalloc> | awk '$3 !~ /^numalloc.*@@NUMALLOC_|^NUMALLOC_/ { print; bad = 1 } END { exit bad }'
  ${CMAKE_NM} -D --defined-only $<TARGET_FILE:numalloc_preload> | awk '/ malloc$/ { seen++ } / numalloc@@NUMALLOC_/ { seen++ } END { exit seen != 2 }'")
