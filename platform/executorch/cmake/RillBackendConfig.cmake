# RillBackend for ExecuTorch: find_package(RillBackend) after find_package(executorch).
#
# RillBackend::shared    registers itself when it is loaded
# RillBackend::static    call rill_backend_register() before loading a program
cmake_minimum_required(VERSION 3.19)

if(NOT TARGET executorch::runtime)
  set(RillBackend_FOUND FALSE)
  set(RillBackend_NOT_FOUND_MESSAGE "call find_package(executorch @EXECUTORCH@) first")
  return()
endif()

get_filename_component(_rill_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
foreach(_rill_kind shared static)
  if(NOT TARGET RillBackend::${_rill_kind})
    string(TOUPPER ${_rill_kind} _rill_type)
    add_library(RillBackend::${_rill_kind} ${_rill_type} IMPORTED)
    set_target_properties(RillBackend::${_rill_kind} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${_rill_root}/include"
      INTERFACE_LINK_LIBRARIES executorch::runtime)
  endif()
endforeach()
set_target_properties(RillBackend::shared PROPERTIES
  IMPORTED_LOCATION "${_rill_root}/lib/librill_backend.so"
  IMPORTED_SONAME librill_backend.so)
set_target_properties(RillBackend::static PROPERTIES
  IMPORTED_LOCATION "${_rill_root}/lib/librill_backend.a"
  INTERFACE_LINK_LIBRARIES "executorch::runtime;pthread;dl;m")
