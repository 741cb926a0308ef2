# Third-party libraries, all from Debian; docs/dependencies.md says why each was chosen.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(GTest REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(POSTGRES REQUIRED IMPORTED_TARGET libpq)

# What each layer needs from outside, beside the layers it may include.
set(diskengine_external_base fmt::fmt spdlog::spdlog PkgConfig::ISAL Threads::Threads)
set(diskengine_external_runtime PkgConfig::URING)
set(diskengine_external_rpc Boost::json)
set(diskengine_external_client Boost::json)
set(diskengine_external_control Boost::json PkgConfig::SQLITE PkgConfig::POSTGRES)
