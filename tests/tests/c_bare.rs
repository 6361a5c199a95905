//! The C library without an operating system, in a program that has no allocator and no C library,
//! on QEMU's virtual machine. `cargo xtask test` runs it where there is a cross compiler and an emulator.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rill::answer::Answer;
use rill::chat::Role;
use rill::generate::{Free, generate};
use rill_tests::kiosk;
use rill_tests::rig::{Rig, Setting};

const TARGET: &str = "aarch64-unknown-none";

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What the model says on this machine.
fn expected() -> String {
    let mut rig = Rig::new(kiosk::default_image(), Setting::default()).unwrap();
    rig.session.append_message(Role::User, "Where is the lift?").unwrap();
    rig.session.begin_answer().unwrap();
    let mut said = String::new();
    rig.with(|session, world| {
        let (answer, emit) = (&mut Answer::default(), |_, text: &str| said.push_str(text));
        generate(session, world, answer, 400, &mut Free, || false, emit).unwrap();
    });
    said + "\n"
}

#[test]
#[ignore = "needs a cross compiler and an emulator: `cargo xtask test` runs it"]
fn a_board_without_an_operating_system_answers_as_this_machine_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let (ffi, tmp) = (root.join("platform/ffi"), Path::new(env!("CARGO_TARGET_TMPDIR")));
    run(Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["build", "--quiet", "-p", "rill-ffi", "--no-default-features"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target)
        .env_remove("RUSTFLAGS"));
    let program = tmp.join("c_bare.elf");
    // Nothing is there but the library: what it would allocate with, or ask a system for, is missing.
    run(Command::new("aarch64-linux-gnu-gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"])
        .args(["-ffreestanding", "-nostdlib", "-static", "-mstrict-align", "-fno-stack-protector"])
        .args(["-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments", "-T"])
        .arg(ffi.join("examples/bare/link.ld"))
        .arg("-I")
        .arg(ffi.join("include"))
        .args(["start.S", "main.c"].map(|name| ffi.join("examples/bare").join(name)))
        .arg(target.join(TARGET).join("debug/librill_ffi.a"))
        .arg("-o")
        .arg(&program));
    let image = tmp.join("c_bare.rill");
    fs::write(&image, kiosk::default_image()).unwrap();
    let emulated = run(Command::new("timeout")
        .args(["300", "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"])
        .args(["-m", "256M", "-nodefaults", "-display", "none", "-serial", "stdio", "-kernel"])
        .arg(&program)
        .arg("-device")
        .arg(format!("loader,file={},addr=0x48000000,force-raw=on", image.display())));
    assert_eq!(String::from_utf8_lossy(&emulated.stdout), expected());
}
