//! Images and saved conversations of any content under right checksums, opened, planned, loaded and
//! run: see `rill_tests::reseal`. Nothing may panic, read out of bounds or run without an end.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use rill_tests::reseal::{Draw, Sound, run};
use rill_tests::rig::arena;

/// An arena that runs most small models, with few or all of their experts.
const ARENA: u64 = 1 << 20;

thread_local! {
    static SOUND: Sound = Sound::default();
    static MEMORY: RefCell<&'static mut [u8]> = RefCell::new(arena(ARENA));
}

fuzz_target!(|bytes: &[u8]| {
    let mut draw = Draw::of(bytes);
    let drawn = SOUND.with(|sound| sound.draw(&mut draw));
    MEMORY.with_borrow_mut(|memory| run(&drawn, &mut draw, memory));
});
