# Included by llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE).
# First, two savings that halve the build and change nothing in the library we load:
# the `common` helper library is only for llama.cpp's own programs, and a unity
# build compiles libllama in batches of twenty files.
set(LLAMA_BUILD_COMMON OFF)
cmake_language(DEFER CALL set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 20)

# Our matrix product for Q4_1 (packaging/llama/q4_1_gemm.cpp, docs/adr/0018): upstream's
# llamafile_sgemm gets another name, and ours takes its place and calls it for the other types.
# Nothing upstream is patched: a version that renames or moves the function fails here or in the
# linker, never in silence.
function(exclave_q4_1_gemm)
  if(NOT TARGET ggml-cpu)
    message(FATAL_ERROR "llama.cpp has no target ggml-cpu: see packaging/llama_fast_build.cmake")
  endif()
  get_target_property(folder ggml-cpu SOURCE_DIR)
  set(sgemm ${folder}/ggml-cpu/llamafile/sgemm.cpp)
  if(NOT EXISTS ${sgemm})
    message(FATAL_ERROR "llama.cpp has no ${sgemm}: see packaging/llama_fast_build.cmake")
  endif()
  set_source_files_properties(${sgemm} TARGET_DIRECTORY ggml-cpu
    PROPERTIES COMPILE_DEFINITIONS llamafile_sgemm=exclave_upstream_sgemm)
  target_sources(ggml-cpu PRIVATE ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/llama/q4_1_gemm.cpp)
endfunction()
cmake_language(DEFER CALL exclave_q4_1_gemm)
