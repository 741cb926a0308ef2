# Compiler settings shared by every target: warnings as errors, assertions always on, mold and ccache where present.
add_compile_options(-Wall -Wextra -Wshadow -Woverloaded-virtual -Wimplicit-fallthrough -Werror
                    -fno-omit-frame-pointer -fno-plt -march=x86-64-v2)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports these falsely in optimised coroutine frames and std::string.
  add_compile_options(-Wno-maybe-uninitialized -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds -Wno-dangling-pointer)
endif()

if(DISKENGINE_SANITIZE)
  add_compile_options(-fsanitize=${DISKENGINE_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${DISKENGINE_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND DISKENGINE_SANITIZE MATCHES "thread")
    # It does not know fences, and says so. Ours order what devices see, which it could not know either.
    add_compile_options(-Wno-tsan)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # clang 14 cannot compile coroutines with the check of function types ("a difference across sections").
    add_compile_options(-fno-sanitize=function)
  endif()
endif()

find_program(DISKENGINE_CCACHE ccache)
if(DISKENGINE_CCACHE)
  # Paths inside the tree are hashed relative to it, so one cache serves every preset and every clone.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
      ${DISKENGINE_CCACHE})
endif()
find_program(DISKENGINE_MOLD mold)
if(DISKENGINE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
