# The RPC layer's table of methods and parameters, generated from schema/*.json. A mistake there fails the build here.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
file(GLOB schema_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/schema/*.json)
set(schema_table ${CMAKE_BINARY_DIR}/generated/rpc_schema.cpp)
add_custom_command(
  OUTPUT ${schema_table}
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/schema/generate.py --cpp ${schema_table}
  DEPENDS ${CMAKE_SOURCE_DIR}/schema/generate.py ${schema_files}
  COMMENT "Generating the RPC table from schema/*.json"
  VERBATIM)
target_sources(diskengine_rpc PRIVATE ${schema_table})
