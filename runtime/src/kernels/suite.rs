//! One suite for every table that this machine can run: the bits of the scalar table, on odd
//! shapes and extreme values.
