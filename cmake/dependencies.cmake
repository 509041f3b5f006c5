# Debian 12, Debian 13 and Ubuntu 24.04 name and version these differently; nothing else in the build knows.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.13)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq>=4.3.3)
pkg_check_modules(CZMQ REQUIRED IMPORTED_TARGET libczmq>=4.2)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(FFMPEG REQUIRED IMPORTED_TARGET
  libavcodec>=59 libavformat>=59 libavutil>=57 libswscale>=6)
pkg_check_modules(NETTLE IMPORTED_TARGET nettle>=3.4) # hashing of weights, seven times as fast as ours
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka>=1.1.5)

# msgpack-c: libmsgpack-dev (4.0, C and C++ in one, "msgpack") or libmsgpack-c-dev (6, "msgpack-c").
pkg_search_module(MSGPACK REQUIRED IMPORTED_TARGET msgpack-c msgpackc msgpack)
# Debian 13's msgpack-c.pc says "includedir=include", which is no place; its headers lie in the default one.
get_target_property(lx2v_dirs PkgConfig::MSGPACK INTERFACE_INCLUDE_DIRECTORIES)
if(lx2v_dirs)
  list(FILTER lx2v_dirs INCLUDE REGEX "^/")
  set_target_properties(PkgConfig::MSGPACK PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${lx2v_dirs}")
endif()

# oneDNN: libdnnl-dev 2.6 (Debian 12) or 3.x (Debian 13, Ubuntu 24.04); only kernels/cpu/lx_dnnl.c sees it.
find_package(dnnl REQUIRED CONFIG)

# OpenMP joins oneDNN's own thread team (libgomp); a compiler without it builds our loops serial.
find_package(OpenMP COMPONENTS C)
