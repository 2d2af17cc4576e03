# SPDX-License-Identifier: BSD-3-Clause
# Programs for memkind that know nothing of libnumalloc. Where their memory is shows in the NUMA lab.
foreach(program use_hbw use_memkind)
  add_executable(${program} ${CMAKE_CURRENT_LIST_DIR}/${program}.c)
  target_compile_options(${program} PRIVATE -std=gnu11 -Wall -Wextra -Werror)
  target_link_libraries(${program} PRIVATE numalloc_memkind)
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/bin)
  add_test(NAME ${program} COMMAND ${program})
endforeach()
