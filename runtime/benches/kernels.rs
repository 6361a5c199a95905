//! Micro-benchmarks of every table that this machine can run: `cargo bench -p rill`.
//!
//! `peak` is what to compare with: plain reads of memory, and loops of nothing but dot products
//! in registers. `matmul` streams weights from far beyond the caches: its bytes are
//! weights, its items multiply-adds. Counters are per thread, so compare lines of the same thread
//! count; on a busy machine the `fastest` column is the one to read. `cargo bench -p rill --
//! matmul/q4` runs a part.

use std::fmt;
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rill::image::SUM_CHUNK;
use rill::image::layout::{BLOCK, Format, MatrixShape, TILE_ROWS};
use rill::kernels::{
    Attend, BLOCK_WORDS, Blocks, Conv, CpuFeatures, FinePanel, Head, KV_BLOCK, Kernels, KeyValues,
    Panel, all,
};

/// One thread, then all.
const THREADS: [usize; 2] = [1, 0];
/// Width of the model's hidden state.
const HIDDEN: usize = 2048;

fn main() {
    divan::main();
}

/// Weights of tile rows, many times what the caches hold; each call takes the next part of them.
fn next_weights(bytes: usize) -> &'static [u8] {
    static WEIGHTS: OnceLock<Vec<u8>> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Any two of these bytes are a normal f16 near 1, whichever of them a kernel takes as scales.
    let weights =
        WEIGHTS.get_or_init(|| (0..384 << 20_usize).map(|i| 0x20 | (i * 7) as u8 & 0x1f).collect());
    let parts = weights.len() / bytes;
    let part = NEXT.fetch_add(1, Ordering::Relaxed) % parts;
    &weights[part * bytes..][..bytes]
}

/// A table, by name in the reports.
#[derive(Clone, Copy)]
struct Table(&'static Kernels);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

fn tables() -> impl Iterator<Item = Table> {
    all(CpuFeatures::detect()).map(Table)
}

/// A table and a number of tokens.
#[derive(Clone, Copy)]
struct Tokens(&'static Kernels, usize);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} tokens", self.0.name, self.1)
    }
}

/// One token, a few, and as many as the table takes.
fn tokens(widest: impl Fn(&Kernels) -> usize) -> impl Iterator<Item = Tokens> {
    tables().flat_map(move |Table(kernels)| {
        let mut widths = vec![1, 2, 4, widest(kernels)];
        widths.dedup();
        widths.into_iter().map(move |width| Tokens(kernels, width))
    })
}

fn plain() -> impl Iterator<Item = Tokens> {
    tokens(|kernels| kernels.width)
}

fn fine() -> impl Iterator<Item = Tokens> {
    tokens(|kernels| kernels.fine_width)
}

fn floats(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 37) as f32 * 0.1 - 1.7).collect()
}

/// f16 bits between 0.125 and 0.25.
fn halves(len: usize) -> Vec<u16> {
    (0..len).map(|i| 0x3000 + (i * 7919 % 1024) as u16).collect()
}

mod peak {
    use super::*;

    /// Bytes between what is read and what is fetched for later: nothing is, or as far ahead as the
    /// products of x86 do it.
    #[cfg(target_arch = "x86_64")]
    const AHEAD: [usize; 2] = [0, 8192];
    #[cfg(not(target_arch = "x86_64"))]
    const AHEAD: [usize; 1] = [0];

    /// Sums 6 MiB as eight streams of words.
    #[divan::bench(threads = THREADS, consts = AHEAD, sample_count = 300)]
    fn read<const AHEAD: usize>(bencher: Bencher<'_, '_>) {
        const BYTES: usize = 6 << 20;
        bencher.with_inputs(|| next_weights(BYTES)).counter(BytesCount::new(BYTES)).bench_values(
            |bytes| {
                bytes.as_chunks::<64>().0.iter().fold([0_u64; 8], |mut sums, line| {
                    if AHEAD > 0 {
                        fetch(line.as_ptr().wrapping_add(AHEAD));
                    }
                    for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                        *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                    }
                    sums
                })
            },
        );
    }

    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "none is known"))]
    fn fetch(line: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch touches no memory that the program can see and never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
    }

    /// A dot product of the CPU on registers: its name, its multiply-adds, and a loop of it.
    #[derive(Clone, Copy)]
    struct Dot {
        name: &'static str,
        multiply_adds: usize,
        run: fn(),
    }

    impl fmt::Display for Dot {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.name)
        }
    }

    /// Rounds of a loop, and dot products in each: enough to hide their latency.
    const ROUNDS: usize = 10_000;
    const CHAINS: usize = 12;

    #[cfg(target_arch = "x86_64")]
    fn dots() -> Vec<Dot> {
        use std::arch::x86_64::*;

        /// A loop of `$dot` for `$feature`.
        macro_rules! dot_loop {
            ($name:ident, $feature:literal, $set:ident, $dot:expr) => {
                #[target_feature(enable = $feature)]
                fn $name() {
                    let (a, b) = black_box(($set(3), $set(5)));
                    let mut sums = [$set(0); CHAINS];
                    for _ in 0..ROUNDS {
                        for sum in &mut sums {
                            *sum = $dot(*sum, a, b);
                        }
                    }
                    black_box(sums);
                }
            };
        }
        dot_loop!(vpdpbusd512, "avx512f,avx512vnni", _mm512_set1_epi8, _mm512_dpbusd_epi32);
        dot_loop!(vpdpbusd256, "avxvnni", _mm256_set1_epi8, _mm256_dpbusd_avx_epi32);
        // The sum goes through the multiplication, or the loop would do it only once.
        dot_loop!(vpmaddubsw256, "avx2", _mm256_set1_epi8, |sum, a, b| _mm256_add_epi16(
            b,
            _mm256_maddubs_epi16(sum, a)
        ));

        let features = CpuFeatures::detect();
        let mut dots = Vec::new();
        if features.has(CpuFeatures::AVX512_VNNI) {
            // SAFETY: the CPU has the feature.
            let run = || unsafe { vpdpbusd512() };
            dots.push(Dot { name: "vpdpbusd zmm", multiply_adds: 64, run });
        }
        if features.has(CpuFeatures::AVX_VNNI) {
            // SAFETY: the CPU has the feature.
            let run = || unsafe { vpdpbusd256() };
            dots.push(Dot { name: "vpdpbusd ymm", multiply_adds: 32, run });
        }
        if features.has(CpuFeatures::AVX2) {
            // SAFETY: the CPU has the feature.
            let run = || unsafe { vpmaddubsw256() };
            dots.push(Dot { name: "vpmaddubsw and vpaddw ymm", multiply_adds: 32, run });
        }
        dots
    }

    #[cfg(target_arch = "aarch64")]
    fn dots() -> Vec<Dot> {
        use std::arch::{aarch64::*, asm};

        #[target_feature(enable = "neon,dotprod")]
        fn sdot() {
            let (a, b) = black_box((vdupq_n_s8(3), vdupq_n_s8(5)));
            let mut sums = [vdupq_n_s32(0); CHAINS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    // SAFETY: it only reads and writes the named registers.
                    unsafe {
                        asm!(
                            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                            sum = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
                            options(pure, nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
            black_box(sums);
        }

        if CpuFeatures::detect().has(CpuFeatures::DOTPROD) {
            // SAFETY: the CPU has the feature.
            return vec![Dot { name: "sdot", multiply_adds: 16, run: || unsafe { sdot() } }];
        }
        Vec::new()
    }

    #[divan::bench(args = dots(), threads = THREADS, sample_count = 300)]
    fn dot(bencher: Bencher<'_, '_>, dot: Dot) {
        bencher.counter(ItemsCount::new(dot.multiply_adds * CHAINS * ROUNDS)).bench(dot.run);
    }
}

mod matmul {
    use super::*;

    /// Streams weights of this shape through `product(w, y)`.
    fn run(
        bencher: Bencher<'_, '_>,
        width: usize,
        shape: MatrixShape,
        product: impl Fn(&[u8], &mut [f32]) + Sync,
    ) {
        bencher
            .with_inputs(|| {
                let y = vec![1.0_f32; shape.tile_rows() * width * TILE_ROWS];
                (next_weights(shape.bytes()), y)
            })
            .counter(BytesCount::new(shape.bytes()))
            .counter(ItemsCount::new(shape.rows * shape.cols * width))
            .bench_refs(|(w, y)| product(w, y));
    }

    fn run_plain(bencher: Bencher<'_, '_>, Tokens(kernels, width): Tokens, shape: MatrixShape) {
        let mut panel = vec![0; Panel::len(width, shape.cols)];
        (kernels.quantise)(&floats(width * shape.cols), width, &mut panel);
        run(bencher, width, shape, |w, y| {
            kernels.matmul(shape.format, w, Panel::new(&panel, width), y);
        });
    }

    fn run_fine(bencher: Bencher<'_, '_>, Tokens(kernels, width): Tokens, shape: MatrixShape) {
        let mut panel = vec![0; FinePanel::len(width, shape.cols)];
        (kernels.quantise_fine)(&floats(width * shape.cols), width, &mut panel);
        run(bencher, width, shape, |w, y| {
            kernels.matmul_fine(shape.format, w, FinePanel::new(&panel, width), y);
        });
    }

    /// An expert's gate and up: 2 x 1792 rows.
    #[divan::bench(args = plain(), threads = THREADS, max_time = 0.5)]
    fn q4_gate_up(bencher: Bencher<'_, '_>, tokens: Tokens) {
        run_plain(bencher, tokens, MatrixShape { format: Format::Q4, rows: 3584, cols: HIDDEN });
    }

    /// An expert's down.
    #[divan::bench(args = plain(), threads = THREADS, max_time = 0.5)]
    fn q4_down(bencher: Bencher<'_, '_>, tokens: Tokens) {
        run_plain(bencher, tokens, MatrixShape { format: Format::Q4, rows: HIDDEN, cols: 1792 });
    }

    /// The input projection of a convolution, whose activations are fine.
    #[divan::bench(args = fine(), threads = THREADS, max_time = 0.5)]
    fn q4_conv_in(bencher: Bencher<'_, '_>, tokens: Tokens) {
        run_fine(
            bencher,
            tokens,
            MatrixShape { format: Format::Q4, rows: 3 * HIDDEN, cols: HIDDEN },
        );
    }

    /// A part of the output head.
    #[divan::bench(args = plain(), threads = THREADS, max_time = 0.5)]
    fn q8_head(bencher: Bencher<'_, '_>, tokens: Tokens) {
        run_plain(bencher, tokens, MatrixShape { format: Format::Q8, rows: HIDDEN, cols: HIDDEN });
    }
}

/// Shapes of the others: one token's.
mod token {
    use super::*;

    const LEN: usize = 2048;
    const HEAD_DIM: usize = 64;
    const QUERIES: usize = 4;
    const _: () = assert!(LEN.is_multiple_of(KV_BLOCK));

    /// Four heads of 64 over 2048 positions.
    fn attention(
        kernels: &Kernels,
        queries: &[f32],
        kv: KeyValues<'_>,
    ) -> [f32; QUERIES * HEAD_DIM] {
        let mut out = [0.0; QUERIES * HEAD_DIM];
        (kernels.attend)(&Attend { queries, kv, head_dim: HEAD_DIM, len: LEN }, &mut out);
        out
    }

    /// A pool of blocks that hold one head, in order.
    fn blocks<'k, T>(pool: &'k [T], table: &'k [u32], width: usize) -> Blocks<'k, T> {
        let values_at = KV_BLOCK * width;
        Blocks { pool, table, stride: 2 * values_at, keys_at: 0, values_at, width }
    }

    /// The numbers of its blocks.
    fn in_order() -> [u32; LEN / KV_BLOCK] {
        core::array::from_fn(|block| block as u32)
    }

    /// f16 keys and values: their bytes, multiply-adds.
    #[divan::bench(args = tables(), threads = THREADS, max_time = 0.5)]
    fn attend(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let (queries, table) = (floats(QUERIES * HEAD_DIM), in_order());
        bencher
            .with_inputs(|| halves(2 * LEN * HEAD_DIM))
            .counter(BytesCount::new(2 * 2 * LEN * HEAD_DIM))
            .counter(ItemsCount::new(2 * QUERIES * LEN * HEAD_DIM))
            .bench_refs(|pool| {
                let head = Head::unscaled(blocks(pool, &table, HEAD_DIM));
                attention(kernels, &queries, KeyValues::F16(head))
            });
    }

    /// int8 keys and values: their bytes with the scales, multiply-adds.
    #[divan::bench(args = tables(), threads = THREADS, max_time = 0.5)]
    fn attend_int8(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let (queries, table) = (floats(QUERIES * HEAD_DIM), in_order());
        let scales = halves(2 * LEN);
        let bytes = || (0..2 * LEN * HEAD_DIM).map(|i| (i * 7919) as i8).collect::<Vec<_>>();
        bencher
            .with_inputs(bytes)
            .counter(BytesCount::new(2 * LEN * (HEAD_DIM + 2)))
            .counter(ItemsCount::new(2 * QUERIES * LEN * HEAD_DIM))
            .bench_refs(|pool| {
                let elements = blocks(pool, &table, HEAD_DIM);
                let head = Head { elements, scales: blocks(&scales, &table, 1) };
                attention(kernels, &queries, KeyValues::Int8(head))
            });
    }

    /// A chunk of a page that is in the cache.
    #[divan::bench(args = tables(), max_time = 0.5)]
    fn checksum(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let bytes = vec![7; SUM_CHUNK];
        bencher
            .counter(BytesCount::new(SUM_CHUNK))
            .bench_local(|| (kernels.checksum)(black_box(&bytes)));
    }

    /// The router of 32 experts: multiply-adds.
    #[divan::bench(args = tables(), max_time = 0.5)]
    fn matmul_f32(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        const EXPERTS: usize = 32;
        let (w, x) = (floats(EXPERTS * HIDDEN), floats(HIDDEN));
        bencher.counter(ItemsCount::new(EXPERTS * HIDDEN)).bench_local(|| {
            let mut y = [0.0; EXPERTS];
            (kernels.matmul_f32)(&w, &x, &mut y);
            y
        });
    }

    #[divan::bench(args = tables(), max_time = 0.5)]
    fn quantise(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let x = floats(HIDDEN);
        let mut panel = [0; HIDDEN / BLOCK * BLOCK_WORDS];
        bencher
            .counter(ItemsCount::new(HIDDEN))
            .bench_local(|| (kernels.quantise)(&x, 1, black_box(&mut panel)));
    }

    #[divan::bench(args = tables(), max_time = 0.5)]
    fn swiglu(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let up = floats(HIDDEN);
        bencher
            .with_inputs(|| floats(HIDDEN))
            .counter(ItemsCount::new(HIDDEN))
            .bench_refs(|gate| (kernels.swiglu)(gate, &up));
    }

    #[divan::bench(args = tables(), max_time = 0.5)]
    fn rms_norm(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let (x, mut y) = (floats(HIDDEN), floats(HIDDEN));
        bencher
            .counter(ItemsCount::new(HIDDEN))
            .bench_local(|| (kernels.rms_norm)(&x, &x, 1e-5, black_box(&mut y)));
    }

    #[divan::bench(args = tables(), max_time = 0.5)]
    fn add_scaled(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let x = floats(HIDDEN);
        bencher
            .with_inputs(|| floats(HIDDEN))
            .counter(ItemsCount::new(HIDDEN))
            .bench_refs(|y| (kernels.add_scaled)(y, &x, 0.5));
    }

    /// Three taps.
    #[divan::bench(args = tables(), max_time = 0.5)]
    fn conv(bencher: Bencher<'_, '_>, Table(kernels): Table) {
        let (bcx, taps) = (floats(3 * HIDDEN), floats(3 * HIDDEN));
        bencher
            .with_inputs(|| (floats(2 * HIDDEN), floats(HIDDEN)))
            .counter(ItemsCount::new(HIDDEN))
            .bench_refs(|(state, y)| (kernels.conv)(Conv { bcx: &bcx, taps: &taps, state, y }));
    }
}
