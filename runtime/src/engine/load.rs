//! Loading a model.

use core::fmt;

use super::Engine;
use crate::arena::{Arena, ArenaFull};
use crate::chat::Conversation;
use crate::desk::Desk;
use crate::draft::Costs;
use crate::experts::{Cache, Lookahead, Policy, Reuse};
use crate::image::layout::align_up;
use crate::image::{Image, ImageError, Section, page_shape};
use crate::kernels::Kernels;
use crate::model::Model;
use crate::model::batch::Rows;
use crate::model::kv::KvPool;
use crate::model::scratch::Scratch;
use crate::model::weights::Weights;
use crate::plan::{Plan, SECTION_ALIGN, Use};
use crate::prefixes::Prefixes;
use crate::sampler::{Sampler, Settings};
use crate::seams::World;
use crate::sequence::Sequence;
use crate::stats::Stats;
use crate::tokenizer::Tokenizer;
use crate::turns::Turns;

/// Why a model could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LoadError {
    /// The image is unusable.
    Image(ImageError),
    /// The arena is smaller than the plan says.
    Arena,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Arena => write!(f, "the arena is smaller than its plan"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<ImageError> for LoadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<ArenaFull> for LoadError {
    fn from(ArenaFull: ArenaFull) -> Self {
        Self::Arena
    }
}

/// What [`Engine::load`] needs to know besides the image.
#[derive(Clone, Copy)]
#[non_exhaustive]
#[must_use]
pub struct Options {
    /// The table of functions.
    pub kernels: &'static Kernels,
    /// Chooses which pages give way.
    pub policy: &'static dyn Policy,
    /// Whether pages may be read on a guess.
    pub lookahead: bool,
    /// Whether answers may be guessed on, which changes no word of them.
    pub draft: bool,
    /// How to sample; `None` as the image advises.
    pub sampling: Option<Settings>,
    /// Seed of the sampler.
    pub seed: u64,
}

impl Options {
    /// The default policy, look-ahead and drafts where they pay, sampling as the image advises, seed
    /// 0.
    pub fn new(kernels: &'static Kernels) -> Self {
        let (lookahead, draft) = (true, true);
        Self { kernels, policy: &Reuse, lookahead, draft, sampling: None, seed: 0 }
    }
}

impl<'a> Engine<'a> {
    /// Loads the resident sections into `arena` as `plan` says, checks them, and makes as many empty
    /// sequences as were planned for.
    ///
    /// `arena` has at least [`Plan::total`] bytes at an address aligned to 16 KiB.
    pub fn load(
        image: &Image,
        plan: &Plan,
        options: Options,
        arena: &'a mut [u8],
        world: &mut World<'_, 'a>,
    ) -> Result<(Self, &'a mut [Sequence<'a>]), LoadError> {
        let manifest = &image.manifest;
        let sizes = plan.sizes;
        let mut arena = Arena::new(arena);
        let mut cut = |part| plan.cut(part, &mut arena);
        let resident = section(image, Section::Resident, cut(Use::Resident)?, world)?;
        let tables = section(image, Section::Tokenizer, cut(Use::Tokenizer)?, world)?;
        let sums = section(image, Section::PageSums, cut(Use::PageSums)?, world)?;
        let mut index = cut(Use::Index)?;
        let key_values = &mut cut(Use::KeyValues)?;
        let kv = KvPool::new(manifest, sizes.blocks(), sizes.kv, &mut index, key_values)?;
        let mut own = cut(Use::Sequences)?;
        let mut known = cut(Use::Prefixes)?;
        let mut scratch = cut(Use::Scratch)?;
        let [context, batch, results, sequences, prefixes] =
            [sizes.context, sizes.batch, sizes.results(), sizes.conversations, sizes.prefixes]
                .map(|x| x as usize);
        let prefixes = Prefixes::new(manifest, context, prefixes, &mut known)?;
        let rows = Rows::new(manifest, sizes.most(), &mut scratch)?;
        let desk = Desk::new(manifest, results, &mut scratch)?;
        let scratch = Scratch::new(manifest, batch, &mut scratch)?;
        let mut slots = cut(Use::Slots)?;
        let weights = Weights::new(manifest, resident, &mut index)?;
        let cache = match page_shape(manifest) {
            Some(shape) => {
                let (index, pages) = (&mut index, &mut slots);
                let (slots, conversations) = (plan.slots as usize, sequences);
                let memory = crate::experts::Memory { index, pages, slots, conversations };
                let alignment = world.storage.geometry().alignment as usize;
                let sums = bytemuck::cast_slice(sums);
                Some(Cache::new(image, shape, sums, alignment, options.policy, memory)?)
            }
            None => None,
        };
        let tokenizer = Tokenizer::parse(tables, manifest.shape.vocab)
            .map_err(|_| LoadError::Image(ImageError::Tokenizer))?;
        let settings = options.sampling.unwrap_or(manifest.sampling.into());
        let sampler = Sampler::new(settings, options.seed);
        let mut list = own.section(Arena::cost::<Sequence<'_>>(sequences), 1)?;
        let sequences = list.build(sequences, |voice| {
            Sequence::new(manifest, context, voice, sampler.clone(), &mut own)
        })?;
        let engine = Self {
            model: Model {
                shape: manifest.shape,
                kernels: options.kernels,
                weights,
                kv,
                cache,
                lookahead: Lookahead::new(options.lookahead),
                rows,
                scratch,
            },
            tokenizer,
            chat: manifest.chat.clone(),
            conversation: Conversation::new(manifest.chat.clone()).ok(),
            prefixes,
            desk,
            batch,
            batches: 0,
            written: 0..0,
            draft: options.draft,
            costs: Costs::default(),
            turns: Turns::new(),
            stats: Stats::default(),
        };
        Ok((engine, sequences))
    }
}

/// Reads a section into its part of the arena and checks it.
fn section<'a>(
    image: &Image,
    section: Section,
    mut arena: Arena<'a>,
    world: &mut World<'_, 'a>,
) -> Result<&'a [u8], LoadError> {
    let len = image.header.span(section).len as usize;
    let bytes = arena.bytes(align_up(len, SECTION_ALIGN), SECTION_ALIGN)?;
    Ok(image.header.read(section, world.storage, bytes)?)
}
