# SPDX-License-Identifier: BSD-3-Clause
# numa_alloc.h as programs meet it: its example compiles and runs; a compiler that knows how sees writes past a block's end.
file(STRINGS include/numa_alloc.h lines)
set(example "")
foreach(line IN LISTS lines)
  if(line MATCHES "^ \\*     (.*)$")
    string(APPEND example "${CMAKE_MATCH_1}\n")
  endif()
endforeach()
string(REPLACE "@semicolon@" ";" example "${example}")
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/header_example.c "${example}")
inline_program(header_example ${CMAKE_CURRENT_BINARY_DIR}/header_example.c numalloc)
add_test(NAME header_example COMMAND header_example)
set_tests_properties(header_example PROPERTIES PASS_REGULAR_EXPRESSION "on node [0-9]+ of [0-9]+")

if(CMAKE_C_COMPILER_ID STREQUAL GNU)
  foreach(mistake PAST_END PAST_END_OF_CALLOC PAST_END_OF_ALIGNED TOO_LARGE)
    add_test(NAME header_warns_${mistake} COMMAND ${CMAKE_C_COMPILER} -O2 -Wall -Walloc-size-larger-than=1000000000 -D${mistake}
             -I ${CMAKE_CURRENT_SOURCE_DIR}/include -c ${CMAKE_CURRENT_SOURCE_DIR}/tests/mistakes.c -o /dev/null)
    set_tests_properties(header_warns_${mistake} PROPERTIES PASS_REGULAR_EXPRESSION "overflow|larger-than|array-bounds")
  endforeach()
  add_test(NAME header_warns_of_nothing COMMAND ${CMAKE_C_COMPILER} -O2 -Wall -Wextra -Werror
           -I ${CMAKE_CURRENT_SOURCE_DIR}/include -c ${CMAKE_CURRENT_SOURCE_DIR}/tests/mistakes.c -o /dev/null)
endif()
