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
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka>=1.1.5)

# msgpack-c: libmsgpack-dev (4.0, C and C++ in one, "msgpack") or libmsgpack-c-dev (6, "msgpack-c").
pkg_search_module(MSGPACK REQUIRED IMPORTED_TARGET msgpack-c msgpackc msgpack)

# oneDNN: libdnnl-dev 2.6 (Debian 12) or 3.x (Debian 13, Ubuntu 24.04); only kernels/cpu/lx_dnnl.c sees it.
find_package(dnnl REQUIRED CONFIG)

# OpenMP joins oneDNN's own thread team (libgomp); a compiler without it builds our loops serial.
find_package(OpenMP COMPONENTS C)
