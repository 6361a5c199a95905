//! What a library without an operating system needs of the program.

use core::ffi::c_char;
use core::panic::PanicInfo;

use crate::status::Text;

unsafe extern "C" {
    /// A library without an operating system calls this when it has found a fault in itself. The program
    /// defines it, and never returns from it. `text` has `len` bytes and no 0 at the end.
    fn rill_panic(text: *const c_char, len: usize);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let text = Text::of(info);
    let text = text.as_str();
    // SAFETY: the header says what it is given.
    unsafe { rill_panic(text.as_ptr().cast(), text.len()) };
    loop {
        core::hint::spin_loop();
    }
}
