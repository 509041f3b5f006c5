# lx_add_test(NAME label LIBS ... [SOURCES ...] [ARGS ...]): a cmocka program from NAME.c in the current folder.
# The label is the folder's name; TESTS finds data through LX2V_SOURCE_DIR and binaries through LX2V_BIN_DIR.
# LX2V_TEST_ROOT: one folder that stands for both trees, for test programs that travel (deploy/bundle.sh --tests).
set(LX2V_TEST_ROOT "" CACHE STRING "Where test programs look for data and binaries; empty: in this source and build tree")
if(LX2V_TEST_ROOT)
  set(lx2v_test_dirs LX2V_SOURCE_DIR="${LX2V_TEST_ROOT}" LX2V_BIN_DIR="${LX2V_TEST_ROOT}/bin"
    LX2V_BUILD_DIR="${LX2V_TEST_ROOT}")
else()
  set(lx2v_test_dirs LX2V_SOURCE_DIR="${CMAKE_SOURCE_DIR}" LX2V_BIN_DIR="${CMAKE_BINARY_DIR}/bin"
    LX2V_BUILD_DIR="${CMAKE_BINARY_DIR}")
endif()
function(lx_add_test name label)
  cmake_parse_arguments(T "" "TIMEOUT" "LIBS;SOURCES;ARGS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  add_executable(${name} ${name}.c ${T_SOURCES})
  lx_target(${name})
  target_link_libraries(${name} PRIVATE ${T_LIBS} PkgConfig::CMOCKA m)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE ${lx2v_test_dirs})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/${label})
  add_test(NAME ${label}.${name} COMMAND ${name} ${T_ARGS})
  set_tests_properties(${label}.${name} PROPERTIES LABELS ${label} TIMEOUT ${T_TIMEOUT}
    SKIP_RETURN_CODE 77
    ENVIRONMENT "OMP_WAIT_POLICY=passive;TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp")
endfunction()
