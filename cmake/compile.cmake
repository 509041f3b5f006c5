# lx_target(NAME): what every target of ours is compiled with.
add_library(lx_flags INTERFACE)
target_compile_options(lx_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wvla -Wno-unknown-pragmas
  -ffp-contract=off # numbers are the same from every compiler; fma where we write fmaf
  -fstack-protector-strong -fno-plt)
target_compile_definitions(lx_flags INTERFACE _GNU_SOURCE LX2V_VERSION="${PROJECT_VERSION}"
  LX2V_ARCH_MAX=${lx2v_arch_max}
  LX2V_BACKEND="$<IF:$<BOOL:${LX2V_WITH_CUDA}>,cuda,cpu>")
target_link_options(lx_flags INTERFACE -Wl,-z,relro,-z,now)
if(LX2V_FAULTS)
  target_compile_definitions(lx_flags INTERFACE LX2V_FAULTS)
endif()
if(LX2V_WERROR)
  target_compile_options(lx_flags INTERFACE -Werror)
endif()
if(LX2V_SANITIZE STREQUAL "address")
  target_compile_options(lx_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  target_link_options(lx_flags INTERFACE -fsanitize=address,undefined)
elseif(LX2V_SANITIZE STREQUAL "thread")
  target_compile_options(lx_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(lx_flags INTERFACE -fsanitize=thread)
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_definitions(lx_flags INTERFACE _FORTIFY_SOURCE=3)
endif()
if(LX2V_FUZZ)
  # An instrumented loop need not vectorise: that warning is not for this build.
  target_compile_options(lx_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -g -Wno-pass-failed)
  target_link_options(lx_flags INTERFACE -fsanitize=address,undefined)
endif()

function(lx_target name)
  target_link_libraries(${name} PRIVATE lx_flags)
endfunction()
