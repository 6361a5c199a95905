//! The functions on floats, for any vector of 16.

/// What attention knows of `Q` queries after some positions.
pub struct Running<const Q: usize> {
    /// The largest score.
    pub largest: [f32; Q],
    /// The sum of the weights.
    pub total: [f32; Q],
}

/// Defines the float functions of a table for `$features`, over these items of the place of use:
///
/// - `V`, 16 floats;
/// - `splat`, `load`, `store`, `load_some`, `store_some`, `load_half`, `load_half_some`,
///   `load_int8`, `load_int8_some` (`_some` takes at most 16 elements; those missing are read as
///   zero and not written);
/// - `add`, `sub`, `mul`, `div`, `fma`, `max`, `min`, `abs`, lane by lane; `max` and `min` give
///   their second operand where one is a NaN;
/// - `round`; `add_exponent(y, n)`, y 2^n for integers n; `zero_where_least(x, y)`, y but 0 where
///   x is -inf; `to_i8` and `to_i16`, of integers in range;
/// - `first`, `sum16`, `max16`;
/// - `KEYS_AT_ONCE`, blocks of keys scored together, and `VALUES_AT_ONCE`, vectors of an output
///   accumulated together: as many as its registers hold for 4 queries.
macro_rules! float_kernels {
    ($features:literal) => {
        /// [`math::exp`], lane by lane.
        #[target_feature(enable = $features)]
        #[inline]
        fn exp(x: V) -> V {
            let x = min(max(x, splat(math::EXP_MIN)), splat(math::EXP_MAX));
            let n = round(mul(x, splat(math::LOG2_E)));
            let r = fma(n, splat(-math::LN2_HIGH), x);
            let r = fma(n, splat(-math::LN2_LOW), r);
            let mut p = splat(math::EXP_POLY[0]);
            for c in &math::EXP_POLY[1..] {
                p = fma(p, r, splat(*c));
            }
            add_exponent(add(fma(p, mul(r, r), r), splat(1.0)), n)
        }

        /// See [`Kernels::matmul_f32`].
        #[target_feature(enable = $features)]
        pub fn matmul_f32(w: &[f32], x: &[f32], y: &mut [f32]) {
            assert_eq!(w.len(), y.len() * x.len());
            let tile_rows = w.chunks_exact(x.len() * TILE_ROWS);
            for (w, y) in tile_rows.zip(y.as_chunks_mut::<TILE_ROWS>().0) {
                let mut sums = [splat(0.0); 4];
                let (columns, last_columns) = w.as_chunks::<TILE_ROWS>().0.as_chunks::<4>();
                let (fours, last_four) = x.as_chunks::<4>();
                for (columns, four) in columns.iter().zip(fours) {
                    for k in 0..4 {
                        sums[k] = fma(load(&columns[k]), splat(four[k]), sums[k]);
                    }
                }
                for ((column, &x), sum) in last_columns.iter().zip(last_four).zip(&mut sums) {
                    *sum = fma(load(column), splat(x), *sum);
                }
                store(add(add(sums[0], sums[1]), add(sums[2], sums[3])), y);
            }
        }

        /// See [`Kernels::quantise`].
        #[target_feature(enable = $features)]
        pub fn quantise(x: &[f32], width: usize, panel: &mut [i32]) {
            for_each_block::<BLOCK_WORDS>(x, width, panel, |x, words, token| {
                let (scale, [low, high]) = integers(x, 127.0);
                let quants = bytemuck::cast([to_i8(low), to_i8(high)]);
                put_block(words, width, token, scale, &quants);
            });
        }

        /// See [`Kernels::quantise_fine`].
        #[target_feature(enable = $features)]
        pub fn quantise_fine(x: &[f32], width: usize, panel: &mut [i32]) {
            for_each_block::<FINE_WORDS>(x, width, panel, |x, words, token| {
                let (scale, [low, high]) = integers(x, 32512.0);
                let quants = bytemuck::cast([to_i16(low), to_i16(high)]);
                put_fine_block(words, width, token, scale, &quants);
            });
        }

        /// The scale of a block, and its integers up to `most`.
        #[target_feature(enable = $features)]
        #[inline]
        fn integers(x: &[f32; BLOCK], most: f32) -> (f32, [V; 2]) {
            let (halves, _) = x.as_chunks::<16>();
            let (low, high) = (load(&halves[0]), load(&halves[1]));
            let scale = max16(max(abs(low), abs(high))) / most;
            let normal = scale >= f32::MIN_POSITIVE;
            let (scale, inverse) = if normal { (scale, 1.0 / scale) } else { (0.0, 0.0) };
            (scale, [mul(low, splat(inverse)), mul(high, splat(inverse))])
        }

        /// See [`Kernels::swiglu`].
        #[target_feature(enable = $features)]
        pub fn swiglu(gate: &mut [f32], up: &[f32]) {
            assert_eq!(gate.len(), up.len());
            for (gate, up) in gate.chunks_mut(16).zip(up.chunks(16)) {
                let g = load_some(gate);
                let sigmoid_inverse = add(splat(1.0), exp(sub(splat(0.0), g)));
                store_some(mul(div(g, sigmoid_inverse), load_some(up)), gate);
            }
        }

        /// See [`Kernels::rms_norm`].
        #[target_feature(enable = $features)]
        pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
            assert!(x.len() == weight.len() && x.len() == y.len());
            let mut squares = splat(0.0);
            for x in x.chunks(16) {
                let x = load_some(x);
                squares = fma(x, x, squares);
            }
            let scale = 1.0 / libm::sqrtf(sum16(squares) / x.len() as f32 + eps);
            for ((y, x), w) in y.chunks_mut(16).zip(x.chunks(16)).zip(weight.chunks(16)) {
                store_some(mul(mul(load_some(x), splat(scale)), load_some(w)), y);
            }
        }

        /// See [`Kernels::add_scaled`].
        #[target_feature(enable = $features)]
        pub fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
            assert_eq!(x.len(), y.len());
            for (y, x) in y.chunks_mut(16).zip(x.chunks(16)) {
                store_some(fma(splat(scale), load_some(x), load_some(y)), y);
            }
        }

        /// See [`Kernels::conv`].
        #[target_feature(enable = $features)]
        pub fn conv(c: Conv<'_>) {
            let hidden = check_conv(&c);
            let (b, rest) = c.bcx.split_at(hidden);
            let (gate, x) = rest.split_at(hidden);
            let last = c.taps.len() / hidden - 1;
            for (y, from) in c.y.chunks_mut(16).zip((0..hidden).step_by(16)) {
                let channels = from..from + y.len();
                let of = |row: usize| row * hidden + channels.start..row * hidden + channels.end;
                let z = mul(load_some(&b[channels.clone()]), load_some(&x[channels.clone()]));
                let mut sum = mul(load_some(&c.taps[of(0)]), load_some(&c.state[of(0)]));
                for tap in 1..last {
                    let earlier = load_some(&c.state[of(tap)]);
                    sum = fma(load_some(&c.taps[of(tap)]), earlier, sum);
                    store_some(earlier, &mut c.state[of(tap - 1)]);
                }
                store_some(z, &mut c.state[of(last - 1)]);
                sum = fma(load_some(&c.taps[of(last)]), z, sum);
                store_some(mul(load_some(&gate[channels.clone()]), sum), y);
            }
        }

        /// How elements of keys and values become floats.
        trait Load: Element {
            /// 16 elements.
            ///
            /// # Safety
            /// The CPU has the table's features.
            unsafe fn load(from: &[Self; 16]) -> V;

            /// At most 16 elements; those missing are zero.
            ///
            /// # Safety
            /// The CPU has the table's features.
            unsafe fn load_some(from: &[Self]) -> V;
        }

        impl Load for u16 {
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn load(from: &[Self; 16]) -> V {
                load_half(from)
            }

            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn load_some(from: &[Self]) -> V {
                load_half_some(from)
            }
        }

        impl Load for i8 {
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn load(from: &[Self; 16]) -> V {
                load_int8(from)
            }

            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn load_some(from: &[Self]) -> V {
                load_int8_some(from)
            }
        }

        /// See [`Kernels::attend`].
        #[target_feature(enable = $features)]
        pub fn attend(a: &Attend<'_>, out: &mut [f32]) {
            match &a.kv {
                KeyValues::F16(head) => attend_head(a, head, out),
                KeyValues::Int8(head) => attend_head(a, head, out),
            }
        }

        /// Attention of all queries: up to 4 share each load of keys and values.
        #[target_feature(enable = $features)]
        #[inline]
        fn attend_head<E: Load>(a: &Attend<'_>, head: &Head<'_, E>, out: &mut [f32]) {
            check_attend(a, head, out);
            let fours = a.queries.chunks(4 * a.head_dim);
            for (queries, out) in fours.zip(out.chunks_mut(4 * a.head_dim)) {
                match queries.len() / a.head_dim {
                    1 => attend_together::<E, 1>(a, head, queries, out),
                    2 => attend_together::<E, 2>(a, head, queries, out),
                    3 => attend_together::<E, 3>(a, head, queries, out),
                    _ => attend_together::<E, 4>(a, head, queries, out),
                }
            }
        }

        /// Attention of `Q` queries.
        #[target_feature(enable = $features)]
        fn attend_together<E: Load, const Q: usize>(
            a: &Attend<'_>,
            head: &Head<'_, E>,
            queries: &[f32],
            out: &mut [f32],
        ) {
            const { assert!(KV_BLOCK.is_multiple_of(KEYS_AT_ONCE * KEY_BLOCK)) };
            let mut running = Running { largest: [f32::NEG_INFINITY; Q], total: [0.0; Q] };
            out.fill(0.0);
            let mut from = 0;
            while from + KEYS_AT_ONCE * KEY_BLOCK <= a.len {
                let keys = head.elements.keys(from, KEYS_AT_ONCE * KEY_BLOCK);
                for scores in score::<E, Q, KEYS_AT_ONCE>(a.head_dim, queries, keys) {
                    let block = from..from + KEY_BLOCK;
                    attend_block(a.head_dim, head, block, scores, &mut running, out);
                    from += KEY_BLOCK;
                }
            }
            while from < a.len {
                let keys = head.elements.keys(from, KEY_BLOCK);
                let [scores] = score::<E, Q, 1>(a.head_dim, queries, keys);
                let block = from..a.len.min(from + KEY_BLOCK);
                attend_block(a.head_dim, head, block, scores, &mut running, out);
                from += KEY_BLOCK;
            }
            for (out, total) in out.chunks_exact_mut(a.head_dim).zip(running.total) {
                for out in out.chunks_mut(16) {
                    store_some(div(load_some(out), splat(total)), out);
                }
            }
        }

        /// The products of `Q` queries with `B` blocks of keys.
        #[target_feature(enable = $features)]
        #[inline]
        fn score<E: Load, const Q: usize, const B: usize>(
            head_dim: usize,
            queries: &[f32],
            keys: &[E],
        ) -> [[V; Q]; B] {
            let mut scores = [[splat(0.0); Q]; B];
            let keys = keys.as_chunks::<KEY_BLOCK>().0;
            assert!(keys.len() == B * head_dim && queries.len() == Q * head_dim);
            for d in 0..head_dim {
                let mut block = [splat(0.0); B];
                for b in 0..B {
                    // SAFETY: this function was compiled for the same features.
                    block[b] = unsafe { E::load(&keys[b * head_dim + d]) };
                }
                for q in 0..Q {
                    let query = splat(queries[q * head_dim + d]);
                    for b in 0..B {
                        scores[b][q] = fma(query, block[b], scores[b][q]);
                    }
                }
            }
            scores
        }

        /// Takes the positions `block`, whose products are known, into the running sums.
        #[target_feature(enable = $features)]
        #[inline]
        fn attend_block<E: Load, const Q: usize>(
            head_dim: usize,
            head: &Head<'_, E>,
            block: Range<usize>,
            scores: [V; Q],
            running: &mut Running<Q>,
            out: &mut [f32],
        ) {
            let mut weights = [[0.0; KEY_BLOCK]; Q];
            let mut shrink = [1.0; Q];
            for q in 0..Q {
                let mut scores = scores[q];
                if E::SCALED {
                    let scales = head.scales.keys(block.start, KEY_BLOCK);
                    scores = mul(scores, load_half_some(scales));
                }
                if block.len() < KEY_BLOCK {
                    let mut known = [0.0; KEY_BLOCK];
                    store(scores, &mut known);
                    known[block.len()..].fill(f32::NEG_INFINITY);
                    scores = load(&known);
                }
                let new = max16(max(scores, splat(running.largest[q])));
                let above = sub(scores, splat(new));
                let mut weight = zero_where_least(above, exp(above));
                let fall = running.largest[q] - new;
                // Mostly an earlier score stays the largest, and exp(0) is exactly 1.
                if fall != 0.0 {
                    let fall = splat(fall);
                    shrink[q] = first(zero_where_least(fall, exp(fall)));
                }
                let total = splat(running.total[q]);
                let total = fma(total, splat(shrink[q]), splat(sum16(weight)));
                running.largest[q] = new;
                running.total[q] = first(total);
                if E::SCALED {
                    let scales = head.scales.values(block.start..block.start + KEY_BLOCK);
                    weight = mul(weight, load_half_some(scales));
                }
                store(weight, &mut weights[q]);
            }
            let values = head.elements.values(block);
            let mut d = 0;
            while d + VALUES_AT_ONCE * 16 <= head_dim {
                let at = d..d + VALUES_AT_ONCE * 16;
                add_values::<E, Q, VALUES_AT_ONCE>(head_dim, values, at, &weights, &shrink, out);
                d += VALUES_AT_ONCE * 16;
            }
            while d < head_dim {
                let at = d..(d + 16).min(head_dim);
                add_values::<E, Q, 1>(head_dim, values, at, &weights, &shrink, out);
                d += 16;
            }
        }

        /// Shrinks the columns `at`, at most `N` vectors of 16, of the `Q` sums in `out`, and adds
        /// the weighted values.
        #[target_feature(enable = $features)]
        #[inline]
        fn add_values<E: Load, const Q: usize, const N: usize>(
            head_dim: usize,
            values: &[E],
            at: Range<usize>,
            weights: &[[f32; KEY_BLOCK]; Q],
            shrink: &[f32; Q],
            out: &mut [f32],
        ) {
            // Only a single vector can be incomplete; the others have a length known here.
            let len = if N > 1 { N * 16 } else { at.len() };
            let mut sums = [[splat(0.0); N]; Q];
            for q in 0..Q {
                let out = &out[q * head_dim + at.start..][..len];
                for (sum, out) in sums[q].iter_mut().zip(out.chunks(16)) {
                    *sum = mul(load_some(out), splat(shrink[q]));
                }
            }
            for (i, row) in values.chunks_exact(head_dim).enumerate().take(KEY_BLOCK) {
                let row = &row[at.start..][..len];
                for n in 0..N {
                    // SAFETY: this function was compiled for the same features.
                    let value = unsafe { E::load_some(&row[n * 16..]) };
                    for q in 0..Q {
                        sums[q][n] = fma(splat(weights[q][i]), value, sums[q][n]);
                    }
                }
            }
            for q in 0..Q {
                let out = &mut out[q * head_dim + at.start..][..len];
                for (sum, out) in sums[q].iter().zip(out.chunks_mut(16)) {
                    store_some(*sum, out);
                }
            }
        }
    };
}
