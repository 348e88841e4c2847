# Included by llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE).
# Two savings that halve the build and change nothing in the library we load:
# the `common` helper library is only for llama.cpp's own programs, and a unity
# build compiles libllama in batches of twenty files.
set(LLAMA_BUILD_COMMON OFF)
cmake_language(DEFER CALL set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 20)
