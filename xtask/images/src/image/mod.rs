//! `cargo xtask image`: from a model to something that boots or installs itself.

pub mod appliance;
mod bundle;
mod disk;
pub mod executorch;
mod licences;
mod modules;
pub mod oci;
mod sd;
mod sizes;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use rill_board::{Board, Platform};

pub use disk::RAW;
use xtask::workspace;

/// Make an image of a model for a board.
///
/// For a board with Linux: a folder and an archive with the program, the model, a service and a
/// script that installs them. For a board without an operating system: a kernel, and a disk with
/// boot files and the model. For `executorch-*`: a folder with a program for ExecuTorch's runtime, the
/// backend that it delegates to, and what others need to use both. The same inputs give the same bytes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Board to make it for: a file of `boards/`, without its extension
    #[arg(long, value_name = "NAME")]
    board: String,
    /// Packed model [default: the small kiosk model of this repository]
    #[arg(long, value_name = "MODEL.rill")]
    model: Option<PathBuf>,
    /// Folder to write to
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// RAM that the program may use [default: as the board's file says]
    #[arg(long, value_name = "SIZE")]
    ram: Option<ByteSize>,
    /// Folder with the vendor's boot firmware and its licence, for boards that need it
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    /// For a board with Linux: a disk that boots, with Debian's kernel and nothing but Rill
    #[arg(long)]
    appliance: bool,
    /// For a board with Linux: an OCI image of the server alone; its model lies on a volume
    #[arg(long, conflicts_with_all = ["appliance", "model", "ram", "firmware"])]
    oci: bool,
    /// Folder with the Debian packages for the appliance [default: fetch them]
    #[arg(long, value_name = "DIR", requires = "appliance")]
    packages: Option<PathBuf>,
}

/// Everything that an image is made from.
#[derive(Clone)]
pub struct Inputs {
    /// The board.
    pub board: Board,
    /// The packed model.
    pub model: PathBuf,
    /// Bytes that the whole program may use.
    pub ram: u64,
    /// Names of further options of `rill chat`, and values where they take one.
    pub settings: Vec<(String, Option<String>)>,
    /// Where the vendor's firmware is.
    pub firmware: Option<PathBuf>,
}

impl Inputs {
    /// A model for a board; without a model the kiosk's, without RAM what the board's file says.
    pub fn new(board: &str, model: Option<&Path>, ram: Option<ByteSize>) -> Result<Self> {
        let board = workspace::board(board)?;
        let model = match model {
            Some(model) => model.to_owned(),
            None => kiosk()?,
        };
        check_model(&model)?;
        let ram = ram.unwrap_or(board.budget).as_u64();
        Ok(Self { board, model, ram, settings: Vec::new(), firmware: None })
    }

    /// Sets options of `rill chat` that take numbers, and no others.
    pub fn set(&mut self, numbers: &[(&str, u64)]) {
        let setting = |&(name, value): &(&str, u64)| (name.to_owned(), Some(value.to_string()));
        self.settings = numbers.iter().map(setting).collect();
    }
}

/// Makes an image.
pub fn run(args: &Args) -> Result<()> {
    if args.oci {
        create(&args.output)?;
        let board = workspace::board(&args.board)?;
        ensure!(board.platform == Platform::Linux, "{}: its images have no Linux", board.name);
        println!("wrote {}", oci::make(&board, &args.output)?.display());
        return Ok(());
    }
    let mut inputs = Inputs::new(&args.board, args.model.as_deref(), args.ram)?;
    inputs.firmware.clone_from(&args.firmware);
    if args.appliance {
        create(&args.output)?;
        let made = appliance::make(&inputs, args.packages.as_deref(), &args.output)?;
        for path in [made.disk, made.kernel, made.initramfs] {
            println!("wrote {}", path.display());
        }
        return Ok(());
    }
    for path in make(&inputs, &args.output)? {
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Makes an image in a folder and prints its sizes; returns what it wrote.
pub fn make(inputs: &Inputs, output: &Path) -> Result<Vec<PathBuf>> {
    create(output)?;
    match inputs.board.platform {
        Platform::Linux => bundle::make(inputs, output),
        Platform::Bare => sd::make(inputs, output),
        Platform::Executorch => executorch::make(inputs, output),
    }
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

/// The kiosk model, packed once.
pub fn kiosk() -> Result<PathBuf> {
    let image = workspace::cache("models")?.join("kiosk.rill");
    let source = workspace::root().join("tests/data/kiosk/kiosk-16m");
    rill_pack::pack(&source, &image, &rill_pack::Options::default(), &rill_pack::Quiet)
        .with_context(|| source.display().to_string())?;
    Ok(image)
}

/// Refuses what is no packed model before anything is built for it.
fn check_model(path: &Path) -> Result<()> {
    let mut magic = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.with_context(|| path.display().to_string())?;
    if magic != rill::image::MAGIC {
        bail!("{}: not a packed model; make one with `rill pack`", path.display());
    }
    Ok(())
}

/// Moves what was made to its place, in the place of what was made there before.
fn put(from: &Path, folder: &Path) -> Result<PathBuf> {
    let to = folder.join(from.file_name().unwrap_or_default());
    if to.is_dir() {
        if !to.join(bundle::SUMS).is_file() {
            bail!("{}: is there and is no bundle: move it away", to.display());
        }
        std::fs::remove_dir_all(&to).with_context(|| to.display().to_string())?;
    }
    std::fs::rename(from, &to).with_context(|| to.display().to_string())?;
    Ok(to)
}
