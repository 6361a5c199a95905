//! How a budget is divided: every byte the engine will ever use, before it uses the first.

use core::fmt;

use crate::arena::Arena;
use crate::desk::Desk;
use crate::experts::Cache;
use crate::image::{Image, PAGE_ALIGN, Section, page_shape};
use crate::kernels::KV_BLOCK;
use crate::model::batch::{MAX_MARKS, MAX_RUNS, Most, Rows};
pub use crate::model::kv::KvFormat;
use crate::model::kv::KvPool;
use crate::model::scratch::Scratch;
use crate::model::weights::Weights;
use crate::prefixes::Prefixes;
use crate::sequence::Sequence;

/// Everything is aligned to this, so that a device can read straight into it.
pub const SECTION_ALIGN: usize = 4 << 10;

/// What to plan for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanRequest {
    /// Bytes of the arena.
    pub arena: u64,
    /// Positions of a sequence; `None` for [`Plan::DEFAULT_CONTEXT`] or the model's own if less.
    pub context: Option<u32>,
    /// Most tokens of a batch; `None` to choose by what the experts leave.
    pub batch: Option<u32>,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Conversations side by side.
    pub conversations: u32,
    /// Tokens whose keys and values there is room for, of all conversations together and at least one
    /// context; `None` for as many as all of them can have. See [`Engine::advance`] for what happens when
    /// it is full.
    ///
    /// [`Engine::advance`]: crate::engine::Engine::advance
    pub kv_tokens: Option<u32>,
    /// Beginnings of conversations that are kept for others; `None` to choose by what the least plan
    /// leaves.
    pub prefixes: Option<u32>,
}

impl PlanRequest {
    /// One conversation in `arena` bytes, all else chosen.
    pub fn new(arena: u64) -> Self {
        Self {
            arena,
            context: None,
            batch: None,
            kv: KvFormat::default(),
            conversations: 1,
            kv_tokens: None,
            prefixes: None,
        }
    }
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Positions of a sequence.
    pub context: u32,
    /// Most tokens of a batch.
    pub batch: u32,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Conversations side by side.
    pub conversations: u32,
    /// Tokens whose keys and values there is room for; `None` for as many as all conversations can have.
    pub kv_tokens: Option<u32>,
    /// Beginnings of conversations that are kept for others. Their keys and values are in blocks that
    /// no conversation has.
    pub prefixes: u32,
}

impl Sizes {
    /// Rows of a batch whose logits are computed together, that the head is read once for all of them.
    const RESULTS: u32 = 16;

    /// The most that a batch has.
    pub(crate) fn most(&self) -> Most {
        let [rows, runs, more, marks] = [
            self.batch,
            self.conversations.min(self.batch).min(MAX_RUNS as u32),
            self.results(),
            self.prefixes.min(MAX_MARKS as u32),
        ]
        .map(|x| x as usize);
        Most { rows, runs, more, marks }
    }

    /// Blocks of keys and values.
    pub fn blocks(&self) -> usize {
        let blocks = |tokens: u32| (tokens as usize).div_ceil(KV_BLOCK);
        self.kv_tokens.map_or_else(|| blocks(self.context) * self.conversations as usize, blocks)
    }

    /// Tokens that there are blocks for.
    pub fn kv_positions(&self) -> usize {
        self.blocks() * KV_BLOCK
    }

    /// Rows of a batch whose logits there is room for at once.
    pub fn results(&self) -> u32 {
        self.batch.min(Self::RESULTS.max(self.conversations.min(MAX_RUNS as u32)))
    }
}

/// A named part of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Use {
    /// The always-used weights.
    Resident,
    /// The tokenizer's tables.
    Tokenizer,
    /// Checksums of the pages.
    PageSums,
    /// Where each page is, how often it was used, and who has which keys and values.
    Index,
    /// Keys and values of the context.
    KeyValues,
    /// Tokens of each conversation, and what convolutions remember of it.
    Sequences,
    /// What convolutions remember of beginnings that are kept.
    Prefixes,
    /// Working memory of a batch: activations, logits, text.
    Scratch,
    /// The pages in RAM.
    Slots,
}

impl Use {
    /// All parts, in the arena's order.
    pub const ALL: [Self; 9] = [
        Self::Resident,
        Self::Tokenizer,
        Self::PageSums,
        Self::Index,
        Self::KeyValues,
        Self::Sequences,
        Self::Prefixes,
        Self::Scratch,
        Self::Slots,
    ];

    /// What it is called in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resident => "resident weights",
            Self::Tokenizer => "tokenizer",
            Self::PageSums => "page checksums",
            Self::Index => "index",
            Self::KeyValues => "keys and values",
            Self::Sequences => "conversations",
            Self::Prefixes => "known beginnings",
            Self::Scratch => "scratch",
            Self::Slots => "expert slots",
        }
    }
}

/// A divided budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    bytes: [u64; Use::ALL.len()],
    /// What it is for.
    pub sizes: Sizes,
    /// Pages that fit.
    pub slots: u32,
    /// Pages of the model.
    pub pages: u32,
    /// Bytes of a page.
    pub page_len: u64,
    /// Pages that one token needs.
    pub cycle: u32,
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PlanError {
    /// The arena is too small.
    BelowLeast {
        /// Bytes offered.
        arena: u64,
        /// The least that works for this context.
        least: u64,
    },
    /// More positions than the model was made for, or none.
    Context {
        /// Positions asked for.
        asked: u32,
        /// The most that works.
        most: u32,
    },
    /// A batch of no tokens.
    Batch,
    /// No conversation, or more than can be.
    Conversations,
    /// Room for the keys and values of fewer tokens than a conversation may have.
    KeyValues {
        /// Tokens asked for.
        asked: u32,
        /// The context.
        context: u32,
    },
    /// More beginnings than can be kept.
    Prefixes,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowLeast { arena, least } => write!(
                f,
                "{} MiB is below the least that works, {} MiB; free memory or use a smaller context",
                arena >> 20,
                least.div_ceil(1 << 20)
            ),
            Self::Context { asked, most } => {
                write!(f, "a context of {asked} is not possible; this model takes 1 to {most}")
            }
            Self::Batch => write!(f, "a batch must have at least one token"),
            Self::Conversations => {
                write!(f, "there must be 1 to {} conversations", Plan::MOST_CONVERSATIONS)
            }
            Self::KeyValues { asked, context } => write!(
                f,
                "room for the keys and values of {asked} tokens is less than one conversation may have, \
                 {context}; name more, or a smaller context"
            ),
            Self::Prefixes => {
                write!(f, "at most {} known beginnings can be kept", Plan::MOST_PREFIXES)
            }
        }
    }
}

impl core::error::Error for PlanError {}

impl Plan {
    /// Context when none is asked for.
    pub const DEFAULT_CONTEXT: u32 = 4096;
    /// Largest batch that is chosen by itself.
    pub const DEFAULT_BATCH: u32 = 512;
    /// Most conversations side by side.
    pub const MOST_CONVERSATIONS: u32 = 4096;
    /// Most beginnings that are kept.
    pub const MOST_PREFIXES: u32 = 4096;
    /// Beginnings that are kept when nobody says how many: so many, and so many for each conversation.
    const DEFAULT_PREFIXES: [u32; 2] = [12, 4];

    /// Divides an arena.
    pub fn new(image: &Image, request: &PlanRequest) -> Result<Self, PlanError> {
        let most = image.manifest.shape.max_context;
        let context = request.context.unwrap_or(Self::DEFAULT_CONTEXT.min(most));
        if context == 0 || context > most {
            return Err(PlanError::Context { asked: context, most });
        }
        if request.batch == Some(0) {
            return Err(PlanError::Batch);
        }
        let conversations = request.conversations;
        if !(1..=Self::MOST_CONVERSATIONS).contains(&conversations) {
            return Err(PlanError::Conversations);
        }
        if request.prefixes.is_some_and(|prefixes| prefixes > Self::MOST_PREFIXES) {
            return Err(PlanError::Prefixes);
        }
        if let Some(asked) = request.kv_tokens.filter(|&asked| asked < context) {
            return Err(PlanError::KeyValues { asked, context });
        }
        let (arena, kv) = (request.arena, request.kv);
        let batch = request.batch.unwrap_or(1).min(context);
        let kv_tokens = request.kv_tokens;
        let bare = Sizes { context, batch, kv, conversations, kv_tokens, prefixes: 0 };
        let prefixes =
            request.prefixes.unwrap_or_else(|| Self::choose_prefixes(image, bare, arena));
        let sizes = |batch| Sizes { batch, prefixes, ..bare };
        let too_small = |sizes| {
            let least = Self::least(image, sizes);
            PlanError::BelowLeast { arena, least }
        };
        if let Some(batch) = request.batch {
            let sizes = sizes(batch.min(context));
            return Self::with(image, sizes, arena).ok_or_else(|| too_small(sizes));
        }
        let mut batch = Self::DEFAULT_BATCH.min(context);
        loop {
            if let Some(plan) = Self::with(image, sizes(batch), arena) {
                // A larger batch reads the pages of a prompt less often, more slots keep more of
                // them: up to a quarter of what both share goes to the batch.
                let (scratch, slots) = (plan.bytes(Use::Scratch), plan.bytes(Use::Slots));
                if plan.slots == plan.pages || scratch <= slots / 3 || batch == 1 {
                    return Ok(plan);
                }
            }
            if batch == 1 {
                return Err(too_small(sizes(1)));
            }
            batch = batch.div_ceil(2);
        }
    }

    /// The least arena that works for some sizes, in bytes.
    pub fn least(image: &Image, sizes: Sizes) -> u64 {
        Self::with_slots(image, sizes, Self::least_slots(image))
    }

    /// The arena beyond which nothing is gained: every page has a slot.
    pub fn most(image: &Image, sizes: Sizes) -> u64 {
        Self::with_slots(image, sizes, image.manifest.pages() as u32)
    }

    /// The arena that has exactly so many slots, in bytes.
    pub fn with_slots(image: &Image, sizes: Sizes, slots: u32) -> u64 {
        Self::sized(image, sizes, slots).total()
    }

    /// Bytes of a part.
    pub const fn bytes(&self, part: Use) -> u64 {
        self.bytes[part as usize]
    }

    /// Bytes of all parts: what the arena must have, at an address aligned to 16 KiB.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// Beginnings that are kept of their own accord: as many as take at most a 64th of what the least
    /// plan leaves of `arena`.
    fn choose_prefixes(image: &Image, sizes: Sizes, arena: u64) -> u32 {
        let spare = arena.saturating_sub(Self::least(image, sizes));
        let [few, more] = Self::DEFAULT_PREFIXES;
        let most = few + more * sizes.conversations;
        let least = |prefixes| Self::least(image, Sizes { prefixes, ..sizes });
        let each = least(most).saturating_sub(least(0)).div_ceil(u64::from(most)).max(1);
        (spare / 64 / each).min(u64::from(most.min(Self::MOST_PREFIXES))) as u32
    }

    fn least_slots(image: &Image) -> u32 {
        image.manifest.shape.top_k
    }

    /// The plan with as many slots as fit, if the least do.
    fn with(image: &Image, sizes: Sizes, arena: u64) -> Option<Self> {
        let pages = image.manifest.pages() as u32;
        let fits = |slots| Self::sized(image, sizes, slots).total() <= arena;
        let least = Self::least_slots(image);
        if !fits(least) {
            return None;
        }
        // The most slots that fit: what is left by the least, in pages, then a step down for the
        // rounding of the index.
        let spare = arena - Self::sized(image, sizes, least).total();
        let page = image.header.page_len.max(1);
        let mut slots = u64::from(least).saturating_add(spare / page).min(u64::from(pages)) as u32;
        while !fits(slots) {
            slots -= 1;
        }
        Some(Self::sized(image, sizes, slots))
    }

    fn sized(image: &Image, sizes: Sizes, slots: u32) -> Self {
        let manifest = &image.manifest;
        let pages = manifest.pages();
        let len = |section| image.header.span(section).len as usize;
        let [ctx, tokens, held, conversations, prefixes, results] = [
            sizes.context,
            sizes.batch,
            slots,
            sizes.conversations,
            sizes.prefixes,
            sizes.results(),
        ]
        .map(|x| x as usize);
        let page = page_shape(manifest).map_or(0, |shape| shape.bytes());
        let cache = if page > 0 { Cache::index_bytes(pages, held, conversations) } else { 0 };
        let index = Weights::bytes(manifest) + KvPool::index_bytes(sizes.blocks()) + cache;
        let bytes = Use::ALL.map(|part| {
            let bytes = match part {
                Use::Resident => len(Section::Resident),
                Use::Tokenizer => len(Section::Tokenizer),
                Use::PageSums => len(Section::PageSums),
                Use::Index => index,
                Use::KeyValues => KvPool::bytes(manifest, sizes.blocks(), sizes.kv),
                Use::Sequences => {
                    Arena::cost::<Sequence<'_>>(conversations)
                        + conversations * Sequence::bytes(manifest, ctx)
                }
                Use::Prefixes => Prefixes::bytes(manifest, ctx, prefixes),
                Use::Scratch => {
                    Rows::bytes(manifest, sizes.most())
                        + Desk::bytes(manifest, results)
                        + Scratch::bytes(manifest, tokens)
                }
                Use::Slots => return (held * page) as u64,
            };
            bytes.next_multiple_of(SECTION_ALIGN) as u64
        });
        // The slots come last and start at a page's alignment.
        let mut plan = Self {
            bytes,
            sizes,
            slots,
            pages: pages as u32,
            page_len: page as u64,
            cycle: manifest.banks() as u32 * manifest.shape.top_k,
        };
        let before = plan.total() - plan.bytes(Use::Slots);
        plan.bytes[Use::Scratch as usize] += before.next_multiple_of(PAGE_ALIGN as u64) - before;
        plan
    }

    /// Cuts `part` off `arena`; parts are cut in the order of [`Use::ALL`].
    pub fn cut<'a>(
        &self,
        part: Use,
        arena: &mut Arena<'a>,
    ) -> Result<Arena<'a>, crate::arena::ArenaFull> {
        let align = if part == Use::Resident { PAGE_ALIGN } else { 1 };
        arena.section(self.bytes(part) as usize, align)
    }
}
