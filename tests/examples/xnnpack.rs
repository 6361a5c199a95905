//! An expert's three matrices in 4 bits, by the engine's kernels and by XNNPACK as ExecuTorch's wheel carries
//! it, in one run: the same weights and scales, the same activations, as many threads.
//!
//!     cargo run --release -p rill-tests --example xnnpack -- FOLDER [THREADS]
//!
//! FOLDER holds the wheel's libraries: `cargo xtask image` leaves them in
//! `target/xtask/executorch/VERSION-ARCHITECTURE/lib`. Both sides quantise the activations by themselves,
//! and go through experts that are far more than caches hold. Their results are compared before anything
//! is timed. The table shows the best of several rounds, in turn.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use rill::image::layout::{BLOCK, Format, MatrixShape, TILE_ROWS, put_block};
use rill::kernels::{CpuFeatures, Kernels, Panel, best};
use rill::seams::Parallel;
use rill_linux::arena::Arena;
use rill_linux::pool::Pool;

/// Width of the hidden state, and of an expert: those of LFM2-8B-A1B.
const HIDDEN: usize = 2048;
const EXPERT: usize = 1792;
/// Experts that are run one after the other.
const EXPERTS: usize = 32;
/// Tokens that go through an expert together.
const TOKENS: [usize; 2] = [1, 64];
const ROUNDS: usize = 7;
/// Tile rows that a thread computes at a time.
const PART: usize = 8;
/// How far results may lie apart, against their size: activations are rounded to 8 bits in two ways.
const APART: f64 = 0.02;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: xnnpack FOLDER [THREADS]")?;
    let threads = match arguments.next() {
        Some(threads) => threads.parse()?,
        None => std::thread::available_parallelism()?.get(),
    };
    let xnnpack = Xnnpack::load(Path::new(&folder), threads)?;
    let kernels = best(CpuFeatures::detect());
    let pool = Pool::new(threads);
    let weights = Weights::random();
    // Where the engine has its experts too.
    let mut arena = Arena::new(EXPERTS * (GATE_UP.bytes() + DOWN.bytes()), 1)?;
    let slots = arena.chunks_exact_mut(GATE_UP.bytes() + DOWN.bytes());
    let ours: Vec<_> = slots.take(EXPERTS).map(|slot| Expert::of(&weights, slot)).collect();
    println!("{threads} threads, kernels {}, {EXPERTS} experts", kernels.name);
    println!("{:>6}  {:>15}  {:>15}  {:>6}", "tokens", "Rill, us", "XNNPACK, us", "ratio");
    for tokens in TOKENS {
        let inputs = Inputs::random(tokens);
        let theirs: Vec<_> =
            (0..EXPERTS).map(|_| xnnpack.expert(&weights, &inputs)).collect::<Result<_, _>>()?;
        let run = Run::new(kernels, &pool, tokens);
        run.expert(&ours[0], &inputs);
        theirs[0].run()?;
        compare(&run, &theirs[0])?;
        let mut times = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            let start = Instant::now();
            ours.iter().for_each(|expert| run.expert(expert, &inputs));
            times[0] = times[0].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            theirs.iter().try_for_each(Graph::run)?;
            times[1] = times[1].min(start.elapsed().as_secs_f64());
        }
        let [rill, other] = times.map(|time| time * 1e6 / EXPERTS as f64);
        println!("{tokens:>6}  {rill:>15.0}  {other:>15.0}  {:>6.2}", other / rill);
    }
    Ok(())
}

/// Numbers that look random, and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 2001) as f32 / 1000.0 - 1.0).collect()
    }
}

/// A matrix in no kernel's order: integers from -8 to 7, and a scale for 32 of a row.
struct Matrix {
    rows: usize,
    cols: usize,
    quants: Vec<i8>,
    /// A scale is `2^-6 * (1 + eighths / 8)`: exact as f16 and as bf16.
    eighths: Vec<u16>,
}

impl Matrix {
    fn random(rows: usize, cols: usize, random: &mut Random) -> Self {
        let quants = (0..rows * cols).map(|_| (random.next() % 16) as i8 - 8).collect();
        let eighths = (0..rows * cols / BLOCK).map(|_| (random.next() % 8) as u16).collect();
        Self { rows, cols, quants, eighths }
    }

    /// Two weights a byte, the first in the low half, 8 added to each; scales as bf16.
    fn for_xnnpack(&self) -> (Vec<u8>, Vec<u16>) {
        let nibble = |quant: i8| (quant + 8) as u8;
        let pairs = self.quants.as_chunks::<2>().0.iter();
        let bytes = pairs.map(|[low, high]| nibble(*low) | nibble(*high) << 4).collect();
        (bytes, self.eighths.iter().map(|eighths| 121 << 7 | eighths << 4).collect())
    }

    /// Writes a tile row as images have it.
    fn put_tile_row(&self, number: usize, tile_row: &mut [u8]) {
        for row in 0..TILE_ROWS {
            let quants = &self.quants[(number * TILE_ROWS + row) * self.cols..][..self.cols];
            for (block, quants) in quants.as_chunks::<BLOCK>().0.iter().enumerate() {
                let at = (number * TILE_ROWS + row) * (self.cols / BLOCK) + block;
                let scale = 9 << 10 | self.eighths[at] << 7;
                put_block(Format::Q4, tile_row, row, block, quants, scale);
            }
        }
    }
}

/// The matrices of an expert.
struct Weights {
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Weights {
    fn random() -> Self {
        let random = &mut Random(1);
        Self {
            gate: Matrix::random(EXPERT, HIDDEN, random),
            up: Matrix::random(EXPERT, HIDDEN, random),
            down: Matrix::random(HIDDEN, EXPERT, random),
        }
    }
}

/// What is multiplied: (tokens, 2048) by gate and up, and (tokens, 1792) by down, which does not depend on
/// the other, so that nothing but products is timed.
struct Inputs {
    tokens: usize,
    hidden: Vec<f32>,
    inner: Vec<f32>,
}

impl Inputs {
    fn random(tokens: usize) -> Self {
        let random = &mut Random(2);
        let (hidden, inner) = (random.floats(tokens * HIDDEN), random.floats(tokens * EXPERT));
        Self { tokens, hidden, inner }
    }
}

const GATE_UP: MatrixShape = MatrixShape { format: Format::Q4, rows: 2 * EXPERT, cols: HIDDEN };
const DOWN: MatrixShape = MatrixShape { format: Format::Q4, rows: HIDDEN, cols: EXPERT };

/// An expert as images have it.
struct Expert<'e> {
    gate_up: &'e [u8],
    down: &'e [u8],
}

impl<'e> Expert<'e> {
    fn of(weights: &Weights, slot: &'e mut [u8]) -> Self {
        let (gate_up, down) = slot.split_at_mut(GATE_UP.bytes());
        let bytes = Format::Q4.tile_row_bytes(GATE_UP.blocks());
        for (number, tile_row) in gate_up.chunks_exact_mut(bytes).enumerate() {
            let matrix = if number % 2 == 0 { &weights.gate } else { &weights.up };
            matrix.put_tile_row(number / 2, tile_row);
        }
        let bytes = Format::Q4.tile_row_bytes(DOWN.blocks());
        for (number, tile_row) in down.chunks_exact_mut(bytes).enumerate() {
            weights.down.put_tile_row(number, tile_row);
        }
        Self { gate_up, down }
    }
}

/// A product's activations and results.
struct Product {
    shape: MatrixShape,
    /// Of each panel.
    quantised: Vec<RwLock<Vec<i32>>>,
    /// Of each part and panel: (tile rows, tokens of the panel, 16).
    results: Vec<Mutex<Vec<Vec<f32>>>>,
}

impl Product {
    fn new(shape: MatrixShape, panels: &[usize]) -> Self {
        let widths = || panels.windows(2).map(|ends| ends[1] - ends[0]);
        let quantised = widths().map(|width| RwLock::new(vec![0; Panel::len(width, shape.cols)]));
        let part = || widths().map(|width| vec![0.0; PART * width * TILE_ROWS]).collect();
        let parts = shape.tile_rows() / PART;
        let results = (0..parts).map(|_| Mutex::new(part())).collect();
        Self { shape, quantised: quantised.collect(), results }
    }

    /// Multiplies `x`, whose panels begin and end at these tokens, by `w`.
    fn run(&self, kernels: &Kernels, pool: &Pool, panels: &[usize], w: &[u8], x: &[f32]) {
        const WHOLE: &str = "no thread panics";
        let cols = self.shape.cols;
        pool.run(self.quantised.len(), &|panel| {
            let (start, end) = (panels[panel], panels[panel + 1]);
            let mut quantised = self.quantised[panel].write().expect(WHOLE);
            (kernels.quantise)(&x[start * cols..end * cols], end - start, &mut quantised);
        });
        let bytes = Format::Q4.tile_row_bytes(self.shape.blocks()) * PART;
        pool.run(self.results.len(), &|part| {
            let w = &w[part * bytes..][..bytes];
            let mut results = self.results[part].lock().expect(WHOLE);
            for (panel, y) in results.iter_mut().enumerate() {
                let quantised = self.quantised[panel].read().expect(WHOLE);
                let x = Panel::new(&quantised, panels[panel + 1] - panels[panel]);
                kernels.matmul(Format::Q4, w, x, y);
            }
        });
    }

    /// The result of a token and a row.
    fn at(&self, panels: &[usize], token: usize, row: usize) -> f32 {
        let panel = panels.iter().rposition(|&start| start <= token).unwrap_or_default();
        let width = panels[panel + 1] - panels[panel];
        let (tile_row, lane) = (row / TILE_ROWS, row % TILE_ROWS);
        let results = self.results[tile_row / PART].lock().expect("no thread panics");
        results[panel][(tile_row % PART * width + token - panels[panel]) * TILE_ROWS + lane]
    }
}

/// Runs experts with the engine's kernels.
struct Run<'r> {
    kernels: &'static Kernels,
    pool: &'r Pool,
    /// The first token of each panel, and the end.
    panels: Vec<usize>,
    gate_up: Product,
    down: Product,
}

impl<'r> Run<'r> {
    fn new(kernels: &'static Kernels, pool: &'r Pool, tokens: usize) -> Self {
        let count = tokens.div_ceil(kernels.width);
        let panels: Vec<_> = (0..=count).map(|panel| panel * tokens / count).collect();
        let (gate_up, down) = (Product::new(GATE_UP, &panels), Product::new(DOWN, &panels));
        Self { kernels, pool, panels, gate_up, down }
    }

    fn expert(&self, expert: &Expert<'_>, inputs: &Inputs) {
        let Self { kernels, pool, panels, gate_up, down } = self;
        gate_up.run(kernels, pool, panels, expert.gate_up, &inputs.hidden);
        down.run(kernels, pool, panels, expert.down, &inputs.inner);
    }

    /// The results of gate, up and down for a token.
    fn results(&self, token: usize) -> [Vec<f32>; 3] {
        let tile_row = |row: usize| row / TILE_ROWS * 2 * TILE_ROWS + row % TILE_ROWS;
        let gate_up = |row| self.gate_up.at(&self.panels, token, row);
        [
            (0..EXPERT).map(|row| gate_up(tile_row(row))).collect(),
            (0..EXPERT).map(|row| gate_up(tile_row(row) + TILE_ROWS)).collect(),
            (0..HIDDEN).map(|row| self.down.at(&self.panels, token, row)).collect(),
        ]
    }
}

/// Fails where the two compute something else than the same products.
fn compare(run: &Run<'_>, graph: &Graph) -> Result<(), Failed> {
    for token in [0, graph.tokens - 1] {
        let ours = run.results(token);
        let names = ["gate", "up", "down"];
        for ((name, ours), theirs) in names.iter().zip(&ours).zip(&graph.results) {
            let theirs = &theirs[token * ours.len()..][..ours.len()];
            let square = |sum: f64, value: f32| sum + f64::from(value) * f64::from(value);
            let apart = ours.iter().zip(theirs).map(|(a, b)| a - b).fold(0.0, square);
            let apart = (apart / ours.iter().copied().fold(0.0, square)).sqrt();
            // What is no number is no small one either.
            if !apart.is_finite() || apart > APART {
                return Err(format!("token {token}, {name}: results lie {apart:.3} apart").into());
            }
        }
    }
    Ok(())
}

/// What a function of XNNPACK returns: 0 when all went well.
type Status = c_int;
type Pointer = *mut c_void;

/// Numbers of `xnnpack.h`.
mod number {
    pub const FP32: super::c_int = 1;
    pub const QDINT8: super::c_int = 9;
    pub const QBINT4: super::c_int = 12;
    pub const NO_VALUE: u32 = u32::MAX;
    pub const INPUT: u32 = 1;
    pub const OUTPUT: u32 = 2;
}

/// A value that is not the graph's own.
#[repr(C)]
struct External {
    id: u32,
    data: Pointer,
}

/// The functions of XNNPACK that make and run graphs, by their prototypes in `xnnpack.h`.
struct Xnnpack {
    create_subgraph: unsafe extern "C" fn(u32, u32, *mut Pointer) -> Status,
    define_tensor: unsafe extern "C" fn(
        Pointer,
        c_int,
        usize,
        *const usize,
        *const c_void,
        u32,
        u32,
        *mut u32,
    ) -> Status,
    define_dynamic: unsafe extern "C" fn(
        Pointer,
        c_int,
        usize,
        usize,
        *const usize,
        u32,
        u32,
        *mut u32,
    ) -> Status,
    define_blockwise: unsafe extern "C" fn(
        Pointer,
        c_int,
        i32,
        *const u16,
        usize,
        usize,
        usize,
        *const usize,
        *const c_void,
        u32,
        u32,
        *mut u32,
    ) -> Status,
    define_convert: unsafe extern "C" fn(Pointer, u32, u32, u32) -> Status,
    define_fully_connected:
        unsafe extern "C" fn(Pointer, f32, f32, u32, u32, u32, u32, u32) -> Status,
    create_runtime: unsafe extern "C" fn(Pointer, Pointer, u32, *mut Pointer) -> Status,
    reshape_runtime: unsafe extern "C" fn(Pointer) -> Status,
    setup_runtime: unsafe extern "C" fn(Pointer, usize, *const External) -> Status,
    invoke_runtime: unsafe extern "C" fn(Pointer) -> Status,
    delete_subgraph: unsafe extern "C" fn(Pointer) -> Status,
    delete_runtime: unsafe extern "C" fn(Pointer) -> Status,
    pool: Pointer,
}

impl Xnnpack {
    /// Loads it, with as many threads.
    fn load(folder: &Path, threads: usize) -> Result<Self, Failed> {
        let names = ["", "_threadpool", "_backend_xnnpack"];
        let mut library = null_mut();
        for name in names {
            library = open(&folder.join(format!("libexecutorch{name}.so")))?;
        }
        // SAFETY: each has the type that the headers of this version give it.
        unsafe {
            let initialize: unsafe extern "C" fn(*const c_void) -> Status =
                symbol(library, c"xnn_initialize")?;
            let create: unsafe extern "C" fn(usize) -> Pointer =
                symbol(library, c"pthreadpool_create")?;
            check("xnn_initialize", initialize(null()))?;
            // Without a pool it would compute on one thread.
            let pool = create(threads);
            if pool.is_null() {
                return Err(format!("XNNPACK cannot start {threads} threads").into());
            }
            Ok(Self {
                create_subgraph: symbol(library, c"xnn_create_subgraph")?,
                define_tensor: symbol(library, c"xnn_define_tensor_value")?,
                define_dynamic: symbol(library, c"xnn_define_dynamically_quantized_tensor_value")?,
                define_blockwise: symbol(library, c"xnn_define_blockwise_quantized_tensor_value")?,
                define_convert: symbol(library, c"xnn_define_convert")?,
                define_fully_connected: symbol(library, c"xnn_define_fully_connected")?,
                create_runtime: symbol(library, c"xnn_create_runtime_v2")?,
                reshape_runtime: symbol(library, c"xnn_reshape_runtime")?,
                setup_runtime: symbol(library, c"xnn_setup_runtime_v2")?,
                invoke_runtime: symbol(library, c"xnn_invoke_runtime")?,
                delete_subgraph: symbol(library, c"xnn_delete_subgraph")?,
                delete_runtime: symbol(library, c"xnn_delete_runtime")?,
                pool,
            })
        }
    }

    /// A graph of an expert's products, with weights of its own.
    fn expert(&self, weights: &Weights, inputs: &Inputs) -> Result<Graph, Failed> {
        let tokens = inputs.tokens;
        let rows = [EXPERT, EXPERT, HIDDEN];
        let mut results = rows.map(|rows| vec![0.0_f32; tokens * rows]);
        // Kernels may read a few bytes more than there are.
        let padded = |x: &[f32]| [x, &[0.0; 64]].concat();
        let mut given = [padded(&inputs.hidden), padded(&inputs.inner)];
        let (mut graph, mut runtime) = (null_mut(), null_mut());
        // SAFETY: pointers are good for as long as each call needs them: weights are packed by the time
        // a runtime is there, and what it reads and writes lives as long as it does.
        unsafe {
            check("a graph", (self.create_subgraph)(5, 0, &mut graph))?;
            let external = |id: u32, cols: usize, flags: u32| {
                let (sizes, mut made) = ([tokens, cols], 0);
                let sizes = sizes.as_ptr();
                let define = self.define_tensor;
                let status = define(graph, number::FP32, 2, sizes, null(), id, flags, &mut made);
                check("a tensor", status).map(|()| made)
            };
            let mut quantised = Vec::new();
            for (id, cols) in [(0, HIDDEN), (1, EXPERT)] {
                let (input, sizes) = (external(id, cols, number::INPUT)?, [tokens, cols]);
                let mut made = 0;
                let (kind, sizes) = (number::QDINT8, sizes.as_ptr());
                let define = self.define_dynamic;
                let status = define(graph, kind, 2, 1, sizes, number::NO_VALUE, 0, &mut made);
                check("quantised activations", status)?;
                check("quantising", (self.define_convert)(graph, input, made, 0))?;
                quantised.push(made);
            }
            let matrices = [&weights.gate, &weights.up, &weights.down];
            let packed = matrices.map(Matrix::for_xnnpack);
            for (index, (matrix, (bytes, scales))) in matrices.iter().zip(&packed).enumerate() {
                let output = external(2 + index as u32, matrix.rows, number::OUTPUT)?;
                let (sizes, mut filter) = ([matrix.rows, matrix.cols], 0);
                let status = (self.define_blockwise)(
                    graph,
                    number::QBINT4,
                    8,
                    scales.as_ptr(),
                    2,
                    0,
                    BLOCK,
                    sizes.as_ptr(),
                    bytes.as_ptr().cast(),
                    number::NO_VALUE,
                    0,
                    &mut filter,
                );
                check("weights", status)?;
                let (least, most) = (f32::NEG_INFINITY, f32::INFINITY);
                let (input, none) = (quantised[index / 2], number::NO_VALUE);
                let define = self.define_fully_connected;
                check("a product", define(graph, least, most, input, filter, none, output, 0))?;
            }
            check("a runtime", (self.create_runtime)(graph, self.pool, 0, &mut runtime))?;
            (self.delete_subgraph)(graph);
            check("its shapes", (self.reshape_runtime)(runtime))?;
            let data = given.iter_mut().chain(&mut results).map(|values| values.as_mut_ptr());
            let externals: Vec<_> =
                (0..).zip(data).map(|(id, data)| External { id, data: data.cast() }).collect();
            let setup = self.setup_runtime;
            check("its values", setup(runtime, externals.len(), externals.as_ptr()))?;
        }
        let (invoke, delete) = (self.invoke_runtime, self.delete_runtime);
        Ok(Graph { runtime, invoke, delete, tokens, results, _given: given })
    }
}

/// An expert in XNNPACK.
struct Graph {
    runtime: Pointer,
    invoke: unsafe extern "C" fn(Pointer) -> Status,
    delete: unsafe extern "C" fn(Pointer) -> Status,
    tokens: usize,
    /// Of gate, up and down: (tokens, rows).
    results: [Vec<f32>; 3],
    _given: [Vec<f32>; 2],
}

impl Graph {
    fn run(&self) -> Result<(), Failed> {
        // SAFETY: the runtime is there, and nobody looks at its results meanwhile.
        check("running", unsafe { (self.invoke)(self.runtime) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { (self.delete)(self.runtime) };
    }
}

fn check(what: &str, status: Status) -> Result<(), Failed> {
    if status == 0 { Ok(()) } else { Err(format!("XNNPACK, {what}: status {status}").into()) }
}

/// Loads a library, for those that need it too.
fn open(path: &Path) -> Result<Pointer, Failed> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: the name ends in a zero.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if library.is_null() {
        // SAFETY: after a failure there is a text, which ends in a zero.
        let why = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(why.to_string_lossy().into_owned().into());
    }
    Ok(library)
}

/// A function of a library, or of those that it needs.
///
/// # Safety
/// `F` is the type of a pointer to that function.
unsafe fn symbol<F: Copy>(library: Pointer, name: &CStr) -> Result<F, Failed> {
    // SAFETY: the name ends in a zero.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        return Err(format!("XNNPACK has no {}", name.to_string_lossy()).into());
    }
    assert_eq!(size_of::<F>(), size_of::<Pointer>());
    // SAFETY: as was promised.
    Ok(unsafe { std::mem::transmute_copy(&found) })
}
