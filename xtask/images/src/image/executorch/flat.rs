//! The tables of an ExecuTorch program, without its segments.
//!
//! They are a flatbuffer (<https://flatbuffers.dev/internals/>) of ExecuTorch's `schema/program.fbs`, version
//! 0 and identifier `ET12`. Below, numbers of fields are their places in that schema. After its first 8
//! bytes stands an extended header of 32, which says where the segments are.

use flatbuffers::{
    FlatBufferBuilder, ForwardsUOffset, Push, TableFinishedWIPOffset, VOffsetT, Vector, WIPOffset,
};
use rill::image::PAGE_ALIGN;

use super::segments::Segment;

/// What names the delegate in a program, and finds it at run time.
pub const BACKEND: &str = "RillBackend";
/// Bytes of the extended header. More than one table is aligned to a divisor of it.
const EXTENDED: usize = 32;
/// Where the extended header stands.
const EXTENDED_AT: usize = 8;
/// The version of the schema.
const VERSION: u32 = 0;

/// What a program says.
pub struct Program<'p> {
    /// Tokens that the model knows.
    pub vocab: u32,
    /// Positions of a conversation.
    pub context: u32,
    /// Token that begins every conversation.
    pub begin: Option<u32>,
    /// Tokens that end an answer.
    pub stops: &'p [u32],
    /// What the delegate is told: names and values.
    pub specs: &'p [(&'p str, Vec<u8>)],
    /// The segments: the plan first, which has no name to others.
    pub segments: &'p [Segment],
}

/// A constant that a method gives.
enum Constant {
    Int(i64),
    Bool(bool),
}

/// Kinds of values: members of the union `KernelTypes`.
mod kind {
    pub const INT: u8 = 2;
    pub const BOOL: u8 = 3;
    pub const TENSOR: u8 = 5;
}

/// Member of the union `InstructionArguments`.
const DELEGATE_CALL: u8 = 2;
/// Members of the enumeration `ScalarType`.
const LONG: i8 = 4;
const FLOAT: i8 = 6;
/// Members of the enumeration `TensorShapeDynamism`.
const STATIC: i8 = 0;
const DYNAMIC_BOUND: i8 = 1;
/// Member of the enumeration `DataLocation`.
const SEGMENT: i8 = 1;

type Builder = FlatBufferBuilder<'static>;
type Table = WIPOffset<TableFinishedWIPOffset>;
type Tables = WIPOffset<Vector<'static, ForwardsUOffset<TableFinishedWIPOffset>>>;

impl Program<'_> {
    /// All before the segments, whose area has `area` bytes: whole pages of 16 KiB.
    pub fn head(&self, area: u64) -> Vec<u8> {
        let mut fbb = Builder::with_capacity(64 << 10);
        let root = self.root(&mut fbb);
        fbb.finish(root, Some("ET12"));
        let flat = fbb.finished_data();
        // The root's place counts from the first byte, all others from where they stand.
        let mut place = [0; 4];
        place.copy_from_slice(&flat[..4]);
        let place = u32::from_le_bytes(place) + EXTENDED as u32;
        let len = flat.len() + EXTENDED;
        let base = len.next_multiple_of(PAGE_ALIGN);
        let mut head = Vec::with_capacity(base);
        head.extend(place.to_le_bytes());
        head.extend(&flat[4..EXTENDED_AT]);
        head.extend(b"eh00");
        head.extend((EXTENDED as u32).to_le_bytes());
        for word in [len as u64, base as u64, area] {
            head.extend(word.to_le_bytes());
        }
        head.extend(&flat[EXTENDED_AT..]);
        head.resize(base, 0);
        head
    }

    fn root(&self, fbb: &mut Builder) -> Table {
        let int = |number: u32| Constant::Int(i64::from(number));
        let begin: Vec<_> = self.begin.into_iter().map(int).collect();
        let stops: Vec<_> = self.stops.iter().copied().map(int).collect();
        let mut plans = vec![self.forward(fbb)];
        for (name, values) in [
            ("get_bos_id", begin),
            ("get_eos_ids", stops),
            ("get_vocab_size", vec![int(self.vocab)]),
            ("get_max_seq_len", vec![int(self.context)]),
            ("get_max_context_len", vec![int(self.context)]),
            ("use_kv_cache", vec![Constant::Bool(true)]),
            ("use_sdpa_with_kv_cache", vec![Constant::Bool(false)]),
            ("enable_dynamic_shape", vec![Constant::Bool(true)]),
        ] {
            if !values.is_empty() {
                plans.push(constants(fbb, name, &values));
            }
        }
        let plans = fbb.create_vector(&plans);
        let (segments, names) = self.areas(fbb);
        // Readers in other languages want what is empty to be there.
        let none = tables(fbb, &[]);
        // The first place of constants stands for none.
        let offsets = fbb.create_vector(&[0_u64]);
        let constant_segment = table(fbb, |fbb| {
            put(fbb, 0, 0_u32);
            put(fbb, 1, offsets);
        });
        table(fbb, |fbb| {
            put(fbb, 0, VERSION);
            put(fbb, 1, plans);
            put(fbb, 2, none);
            put(fbb, 3, none);
            put(fbb, 4, segments);
            put(fbb, 5, constant_segment);
            put(fbb, 7, names);
        })
    }

    /// `DataSegment` and `NamedData`.
    fn areas(&self, fbb: &mut Builder) -> (Tables, Tables) {
        let (mut segments, mut names) = (Vec::new(), Vec::new());
        for (index, segment) in self.segments.iter().enumerate() {
            segments.push(table(fbb, |fbb| {
                put(fbb, 0, segment.offset);
                put(fbb, 1, segment.len);
            }));
            if let Some(name) = &segment.name {
                let name = fbb.create_string(name);
                names.push(table(fbb, |fbb| {
                    put(fbb, 0, name);
                    put(fbb, 1, index as u32);
                }));
            }
        }
        (tables(fbb, &segments), tables(fbb, &names))
    }

    /// `forward(tokens: i64[1, up to context], position: i64[1]) -> f32[1, 1, vocab]`, the logits, all by
    /// the delegate.
    fn forward(&self, fbb: &mut Builder) -> Table {
        let [context, vocab] = [self.context, self.vocab].map(|number| number as i32);
        let tokens = 8 * u64::from(self.context).next_multiple_of(2);
        let position = 16;
        let logits = (4 * u64::from(self.vocab)).next_multiple_of(16);
        let values = [
            tensor(fbb, LONG, &[1, context], 0, DYNAMIC_BOUND),
            tensor(fbb, LONG, &[1], tokens, STATIC),
            tensor(fbb, FLOAT, &[1, 1, vocab], tokens + position, STATIC),
        ];
        let values = tables(fbb, &values);
        let arguments = fbb.create_vector(&[0_i32, 1, 2]);
        let call = table(fbb, |fbb| {
            put(fbb, 0, 0_i32);
            put(fbb, 1, arguments);
        });
        let instruction = table(fbb, |fbb| {
            put(fbb, 0, DELEGATE_CALL);
            put(fbb, 1, call);
        });
        let delegate = self.delegate(fbb);
        let memory = [0, (tokens + position + logits) as i64];
        plan(
            fbb,
            "forward",
            Plan {
                values,
                inputs: &[0, 1],
                outputs: &[2],
                instructions: &[instruction],
                delegates: &[delegate],
                memory: &memory,
            },
        )
    }

    /// `BackendDelegate`, whose blob is the first segment.
    fn delegate(&self, fbb: &mut Builder) -> Table {
        let mut specs = Vec::new();
        for (key, value) in self.specs {
            let key = fbb.create_string(key);
            let value = fbb.create_vector(value);
            specs.push(table(fbb, |fbb| {
                put(fbb, 0, key);
                put(fbb, 1, value);
            }));
        }
        let specs = tables(fbb, &specs);
        let blob = table(fbb, |fbb| {
            put(fbb, 0, SEGMENT);
            put(fbb, 1, 0_u32);
        });
        let id = fbb.create_string(BACKEND);
        table(fbb, |fbb| {
            put(fbb, 0, id);
            put(fbb, 1, blob);
            put(fbb, 2, specs);
        })
    }
}

/// A method that gives constants.
fn constants(fbb: &mut Builder, name: &str, values: &[Constant]) -> Table {
    let outputs: Vec<_> = (0..values.len() as i32).collect();
    let mut given = Vec::new();
    for value in values {
        let (kind, value) = match *value {
            Constant::Int(number) => (kind::INT, table(fbb, |fbb| put(fbb, 0, number))),
            Constant::Bool(truth) => (kind::BOOL, table(fbb, |fbb| put(fbb, 0, truth))),
        };
        given.push(evalue(fbb, kind, value));
    }
    let values = tables(fbb, &given);
    plan(
        fbb,
        name,
        Plan {
            values,
            inputs: &[],
            outputs: &outputs,
            instructions: &[],
            delegates: &[],
            memory: &[0],
        },
    )
}

/// What an `ExecutionPlan` is made of.
struct Plan<'p> {
    values: Tables,
    inputs: &'p [i32],
    outputs: &'p [i32],
    instructions: &'p [Table],
    delegates: &'p [Table],
    memory: &'p [i64],
}

fn plan(fbb: &mut Builder, name: &str, plan: Plan<'_>) -> Table {
    let chain = {
        let none = fbb.create_vector::<i32>(&[]);
        let instructions = tables(fbb, plan.instructions);
        table(fbb, |fbb| {
            put(fbb, 0, none);
            put(fbb, 1, none);
            put(fbb, 2, instructions);
        })
    };
    let name = fbb.create_string(name);
    let no_text = fbb.create_string("");
    let container = table(fbb, |fbb| {
        put(fbb, 0, no_text);
        put(fbb, 1, no_text);
    });
    let inputs = fbb.create_vector(plan.inputs);
    let outputs = fbb.create_vector(plan.outputs);
    let chains = tables(fbb, &[chain]);
    let operators = tables(fbb, &[]);
    let delegates = tables(fbb, plan.delegates);
    let memory = fbb.create_vector(plan.memory);
    table(fbb, |fbb| {
        put(fbb, 0, name);
        put(fbb, 1, container);
        put(fbb, 2, plan.values);
        put(fbb, 3, inputs);
        put(fbb, 4, outputs);
        put(fbb, 5, chains);
        put(fbb, 6, operators);
        put(fbb, 7, delegates);
        put(fbb, 8, memory);
    })
}

/// A tensor at a place of the memory that the runtime plans, first dimension outermost.
fn tensor(fbb: &mut Builder, scalar: i8, sizes: &[i32], place: u64, dynamism: i8) -> Table {
    let order: Vec<_> = (0..sizes.len() as u8).collect();
    let order = fbb.create_vector(&order);
    let sizes = fbb.create_vector(sizes);
    let memory = table(fbb, |fbb| {
        // Memories are counted from 1.
        put(fbb, 0, 1_u32);
        put(fbb, 1, place as u32);
        put(fbb, 2, (place >> 32) as u32);
    });
    let tensor = table(fbb, |fbb| {
        put(fbb, 0, scalar);
        put(fbb, 1, 0_i32);
        put(fbb, 2, sizes);
        put(fbb, 3, order);
        put(fbb, 4, false);
        put(fbb, 5, 0_u32);
        put(fbb, 6, memory);
        put(fbb, 7, 0_i8);
        put(fbb, 8, dynamism);
    });
    evalue(fbb, kind::TENSOR, tensor)
}

fn evalue(fbb: &mut Builder, kind: u8, value: Table) -> Table {
    table(fbb, |fbb| {
        put(fbb, 0, kind);
        put(fbb, 1, value);
    })
}

/// A table with these fields.
fn table(fbb: &mut Builder, fields: impl FnOnce(&mut Builder)) -> Table {
    let start = fbb.start_table();
    fields(fbb);
    fbb.end_table(start)
}

fn tables(fbb: &mut Builder, items: &[Table]) -> Tables {
    fbb.create_vector(items)
}

/// Sets a field of the table under way; the first two entries of what describes a table are no fields.
fn put<T: Push>(fbb: &mut Builder, field: VOffsetT, value: T) {
    fbb.push_slot_always(4 + 2 * field, value);
}
