//! `rill-init`: the first and only service of an appliance, a board whose Linux runs Rill alone.
//!
//! The kernel starts it as `/init` from an initramfs. It mounts what a program expects, loads the
//! modules that came along, finds the model and the state on the disk, and keeps `rill chat` on the
//! console, as a user of its own: a program that ends with an error is started again, one that is left (`/quit`) switches
//! the board off. A watchdog restarts a board whose program is stuck.

mod disk;
mod health;
mod modules;
mod settings;
mod user;
mod watchdog;

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, WaitOptions, setrlimit, wait};
use rustix::system::{RebootCommand, reboot};

use self::disk::Partitions;
use self::health::Health;
use self::user::RILL;
use self::watchdog::Watchdog;

/// Time between looks at the program; far less than any watchdog's patience.
const TICK: Duration = Duration::from_millis(500);
/// Time before a program that failed is started again.
const PAUSE: Duration = Duration::from_secs(2);
/// The program, in the initramfs.
const PROGRAM: &str = "/bin/rill";
/// Where the state partition is mounted.
const STATE: &str = "/state";
/// Where the model is found by programs.
const MODEL: &str = "/state/model.rill";
/// The program's own folder: what it remembers, and the conversations that are saved. Nothing else is
/// its to write.
const OWN: &str = "/state/rill";

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("error: this program is an appliance's /init; `rill` is for everything else");
        return ExitCode::from(2);
    }
    prepare();
    let mut watchdog = Watchdog::open();
    match disk::find() {
        Ok(partitions) => {
            mount_state(partitions.state.as_deref());
            serve(&partitions, &mut watchdog);
        }
        Err(error) => {
            eprintln!("error: {error}");
            // A card that is put in, or a controller that comes back, is found after a restart.
            sleep(Duration::from_secs(10));
            finish(RebootCommand::Restart);
        }
    }
    watchdog.close();
    finish(RebootCommand::PowerOff)
}

/// Mounts the kernel's file systems and loads modules.
fn prepare() {
    let none = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (kind, target, flags) in [
        ("proc", "/proc", none | MountFlags::NODEV),
        ("sysfs", "/sys", none | MountFlags::NODEV),
        // The kernel may have mounted it.
        ("devtmpfs", "/dev", none),
        ("tmpfs", STATE, none | MountFlags::NODEV),
    ] {
        let mounted = fs::create_dir_all(target)
            .and_then(|()| Ok(mount(kind, target, kind, flags, None::<&std::ffi::CStr>)?));
        if let Err(error) = mounted
            && error.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error())
        {
            eprintln!("note: cannot mount {target}: {error}");
        }
    }
    // The program locks its RAM, which no user of its own may do by default.
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        eprintln!("note: cannot lock RAM: {error}");
    }
    modules::load();
}

/// Mounts the state over the RAM disk that is there without it. Its journal undoes what a power cut
/// interrupted.
fn mount_state(device: Option<&Path>) {
    let Some(device) = device else {
        eprintln!("note: this disk has no partition for state; nothing is remembered");
        return;
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    if let Err(error) = mount(device, STATE, "ext4", flags, None::<&std::ffi::CStr>) {
        eprintln!("note: cannot mount {}: {error}; nothing is remembered", device.display());
    }
}

/// Runs the program on the console until it is left.
fn serve(partitions: &Partitions, watchdog: &mut Watchdog) {
    loop {
        let started = RILL
            .own(Path::new(OWN))
            .and_then(|()| RILL.may_read(&partitions.model))
            .and_then(|()| link(&partitions.model))
            .and_then(|()| start());
        match started {
            Ok(child) => {
                let status = watch(child, watchdog);
                if status.is_some_and(|status| status.success()) {
                    return;
                }
                let status = status.map_or("lost".to_owned(), |status| status.to_string());
                eprintln!("note: the program ended ({status}) and is started again");
            }
            Err(error) => eprintln!("error: cannot start {PROGRAM}: {error}"),
        }
        sleep(PAUSE);
    }
}

/// Lets the model be found where programs look for it.
fn link(device: &Path) -> io::Result<()> {
    if fs::read_link(MODEL).is_ok_and(|target| target == device) {
        return Ok(());
    }
    let new = format!("{MODEL}.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(device, &new)?,
    }
    fs::rename(new, MODEL)
}

/// Starts the program with the console as its terminal.
fn start() -> io::Result<Child> {
    let console = File::options().read(true).write(true).open("/dev/console")?;
    let mut command = Command::new(PROGRAM);
    command.args(["chat", "--model", MODEL, "--state", OWN]).args(settings::arguments());
    command.uid(RILL.uid).gid(RILL.gid).current_dir(OWN);
    command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    let terminal = || {
        rustix::thread::set_no_new_privs(true)?;
        rustix::process::setsid()?;
        // Refused for a console that is no terminal, which then has no Ctrl-C.
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only.
    unsafe { command.pre_exec(terminal) };
    command.spawn()
}

/// Waits for the program to end; kicks the watchdog while it is well. `None` when something else
/// took its status.
fn watch(mut child: Child, watchdog: &mut Watchdog) -> Option<ExitStatus> {
    let mut health = Health::new(child.id());
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(status) => return status,
            Err(_) => return None,
        }
        if health.is_well() {
            watchdog.kick();
        }
        sleep(TICK);
    }
}

/// Writes what is left to write, takes the state out and ends the board's run.
fn finish(how: RebootCommand) -> ! {
    rustix::fs::sync();
    // Not mounted on a disk without state.
    let _ = unmount(STATE, rustix::mount::UnmountFlags::empty());
    // Programs that lost their parent.
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    let refused = reboot(how);
    // The kernel panics when its first process ends, which restarts the board as it was told.
    panic!("the board does not {how:?}: {refused:?}")
}
