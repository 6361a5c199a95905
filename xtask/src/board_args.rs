//! Options of `cargo xtask test --board`, which `xtask` reads and `rill-images` obeys.

use std::path::PathBuf;

use bytesize::ByteSize;

/// How to test one board.
#[derive(Debug, clap::Args)]
pub struct BoardArgs {
    /// Instead, talk with this board and compare its answers with those of this machine.
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// Cores of that board, where one can choose.
    #[arg(long, value_name = "N", requires = "board")]
    pub cores: Option<u32>,
    /// Boot that board's appliance in QEMU's virtual machine.
    #[arg(long, requires = "board", conflicts_with = "cores")]
    pub appliance: bool,
    /// Take that board's card away, damage it and slow it down, where it has no operating system.
    #[arg(long, requires = "board", conflicts_with_all = ["cores", "appliance"])]
    pub faults: bool,
    /// Cut the power of that board's appliance while it writes.
    #[arg(long, requires = "board", conflicts_with_all = ["cores", "appliance", "faults"])]
    pub power_cut: bool,
    /// Run what the OCI image of that board holds, as a container: its server answers as the
    /// program does.
    #[arg(long, requires = "board")]
    #[arg(conflicts_with_all = ["cores", "appliance", "faults", "power_cut", "counters", "host"])]
    #[arg(conflicts_with_all = ["model", "ram"])]
    pub oci: bool,
    /// Compare what was found in RAM and read from flash too: as many experts fit there as here,
    /// and none is read on a guess.
    #[arg(long, requires = "board", conflicts_with_all = ["faults", "appliance"])]
    pub counters: bool,
    /// Talk with a real board with Linux: what `ssh` takes as destination.
    #[arg(long, value_name = "USER@BOARD", requires = "board")]
    #[arg(conflicts_with_all = ["cores", "appliance", "faults"])]
    pub host: Option<String>,
    /// Packed model to talk with [default: the small kiosk model of this repository]
    #[arg(long, value_name = "MODEL.rill", requires = "board", conflicts_with = "faults")]
    pub model: Option<PathBuf>,
    /// RAM that the board's program may use.
    #[arg(long, value_name = "SIZE", requires = "board", conflicts_with = "faults")]
    pub ram: Option<ByteSize>,
}
