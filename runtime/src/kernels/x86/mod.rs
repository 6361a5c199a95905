//! Tables for x86-64.
//!
//! The functions are written once, over vectors of 16 floats, in the macros of `floats` and
//! `products`. Each instruction set defines those vectors and its dot product, then expands the
//! macros with its features: a function compiled for the features may call their intrinsics
//! safely. A format of weights is a file of its own, over the vectors of any table. The only unsafe
//! steps are loads and stores through pointers, each in a small function, and the entries from a
//! table or a trait into code compiled for its features.

/// A table's entry: calls a function that was compiled for the table's features.
macro_rules! entry {
    ($function:expr, $($argument:ident),*) => {
        |$($argument),*| {
            // SAFETY: the CPU has the features that the function was compiled for, because the
            // table is reached only through a `CpuFeatures` that has them, and who made that
            // vouched for it.
            unsafe { $function($($argument),*) }
        }
    };
}

/// The products of a table, `$function` for each format in the order of [`Format`].
///
/// [`Format`]: crate::image::layout::Format
macro_rules! by_format {
    ($function:ident, $words:ident) => {
        [entry!($function::<Q4, $words>, w, x, y), entry!($function::<Q8, $words>, w, x, y)]
    };
}

/// Compiles each function for `$features`, to be inlined into others that have them.
macro_rules! with_features {
    (
        $features:literal;
        $(
            $(#[$attribute:meta])*
            $visible:vis fn $name:ident $(<$parameter:ident: $bound:ident>)?(
                $($argument:ident: $type:ty),*
            ) $(-> $result:ty)? $body:block
        )*
    ) => {
        $(
            $(#[$attribute])*
            #[target_feature(enable = $features)]
            #[inline]
            $visible fn $name $(<$parameter: $bound>)?(
                $($argument: $type),*
            ) $(-> $result)? $body
        )*
    };
}

#[macro_use]
mod floats;
#[macro_use]
mod products;

mod avx2;
mod avx512vnni;
mod avxvnni;
mod checksum;
mod q4;
mod q8;
mod wide;

pub use avx2::AVX2;
pub use avx512vnni::AVX512_VNNI;
pub use avxvnni::AVX_VNNI;
