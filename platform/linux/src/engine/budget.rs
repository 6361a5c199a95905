use std::fmt;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use rill::image::{Image, Section};
use rill::plan::{KvFormat, Plan, PlanError, PlanRequest, Sizes};
use rill::size::Size;

use super::LoadError;
use super::overhead::{Overhead, PARTS};
use crate::memory::{self, GroupLimit};
use crate::model::Model;
use crate::pool::Pool;

/// How much RAM, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetOptions {
    /// Bytes that the whole process may use; `None` for what is free.
    pub ram: Option<u64>,
    /// Tokens that a conversation may have; `None` for [`Plan::DEFAULT_CONTEXT`], or the model's own
    /// if less.
    pub context: Option<u32>,
    /// Most tokens that go through the model together; `None` to choose by the budget.
    pub batch: Option<u32>,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Conversations side by side.
    pub conversations: u32,
    /// Tokens whose keys and values there is room for, of all conversations together; `None` for as many as
    /// all of them can have.
    pub kv_tokens: Option<u32>,
    /// Beginnings of conversations that are kept for others; `None` to choose by the budget.
    pub prefixes: Option<u32>,
    /// What the program takes besides what every program with a model does.
    pub beside: Beside,
}

/// Bytes that a server takes besides what every program with a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// For connections.
    pub connections: u64,
    /// For requests.
    pub requests: u64,
    /// The same for each token of the context.
    pub token: u64,
    /// For forms of answers.
    pub forms: u64,
    /// The same for each token of the vocabulary.
    pub word: u64,
}

impl Default for BudgetOptions {
    /// One conversation in what is free.
    fn default() -> Self {
        Self {
            ram: None,
            context: None,
            batch: None,
            kv: KvFormat::default(),
            conversations: 1,
            kv_tokens: None,
            prefixes: None,
            beside: Beside::default(),
        }
    }
}

impl BudgetOptions {
    /// Divides the budget for a model that so many threads compute, at most [`Pool::MOST`]; `None` for all
    /// cores.
    pub fn plan(&self, model: &Model, threads: Option<NonZeroUsize>) -> Result<Budget, LoadError> {
        let total = match self.ram {
            Some(total) => total,
            None => memory::default_budget().map_err(LoadError::Free)?,
        };
        let threads = threads.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let threads = threads.min(Pool::MOST);
        let shape = &model.image.manifest.shape;
        let most = Plan::DEFAULT_CONTEXT.min(shape.max_context);
        let context = u64::from(self.context.unwrap_or(most));
        let vocabulary = u64::from(shape.vocab);
        let overhead = Overhead {
            built_in: model.device.resident(),
            template: model.padded(Section::Template),
            threads: threads + model.device.threads(),
            connections: self.beside.connections,
            requests: self.beside.requests.saturating_add(context * self.beside.token),
            forms: self.beside.forms.saturating_add(vocabulary * self.beside.word),
        };
        let request = PlanRequest {
            arena: overhead.arena(total),
            context: self.context,
            batch: self.batch,
            kv: self.kv,
            conversations: self.conversations,
            kv_tokens: self.kv_tokens,
            prefixes: self.prefixes,
        };
        match Plan::new(&model.image, &request) {
            Ok(plan) => {
                let prefixes = self.prefixes.unwrap_or_default();
                let beside = overhead.parts(plan.total());
                let batch = self.batch.map_or(1, |_| plan.sizes.batch);
                let least = Sizes { batch, prefixes, ..plan.sizes };
                Ok(Budget { total, overhead, beside, plan, threads, least })
            }
            Err(PlanError::BelowLeast { least, .. }) => {
                let (least, server) = (overhead.with(least), overhead.server());
                Err(LoadError::Budget { budget: total, least, server })
            }
            Err(error) => Err(LoadError::Plan(error)),
        }
    }

    /// The least budget that works for a model that so many threads compute; `None` for all cores.
    pub fn least(&self, model: &Model, threads: Option<NonZeroUsize>) -> Result<u64, LoadError> {
        // What is free need not be known for it.
        match (Self { ram: Some(0), ..self.clone() }).plan(model, threads) {
            Ok(budget) => Ok(budget.bounds(&model.image)[0]),
            Err(LoadError::Budget { least, .. }) => Ok(least),
            Err(error) => Err(error),
        }
    }
}

/// A budget, divided. Displayed as one line for the user who named none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that the whole process may use.
    pub total: u64,
    /// What is not the arena.
    pub overhead: Overhead,
    /// Bytes of it, by name.
    pub beside: [(&'static str, u64); PARTS.len()],
    /// The arena.
    pub plan: Plan,
    /// Threads that compute.
    pub threads: usize,
    /// What was asked for, and of the rest as little as works.
    least: Sizes,
}

/// A budget that was named is refused where the kernel would end the process for it.
pub(super) fn within(budget: u64, limit: Option<GroupLimit>) -> Result<(), LoadError> {
    match limit.filter(|limit| budget > limit.bytes) {
        Some(limit) => Err(LoadError::Group { budget, limit }),
        None => Ok(()),
    }
}

impl Budget {
    /// The least budget that works for what was asked for, and the most of any use.
    pub fn bounds(&self, image: &Image) -> [u64; 2] {
        let least = Plan::least(image, self.least);
        let most = Plan::most(image, self.plan.sizes);
        [least, most].map(|arena| self.overhead.with(arena))
    }

    /// What the process will use of it.
    pub fn used(&self) -> u64 {
        self.overhead.with(self.plan.total())
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { slots, pages, .. } = self.plan;
        write!(f, "using {} of {} free RAM", Size(self.used()), Size(self.total))?;
        match pages {
            0 => Ok(()),
            _ if slots == pages => write!(f, ", all {pages} experts in RAM"),
            _ => write!(f, ", {slots} of {pages} experts in RAM"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_budget_above_the_limit_of_a_group_is_refused_by_name() {
        let group = Path::new("/sys/fs/cgroup/kiosk").to_owned();
        let limit = |bytes| Some(GroupLimit { bytes, group: group.clone() });
        assert!(within(1 << 30, None).is_ok());
        assert!(within(1 << 30, limit(1 << 30)).is_ok());
        let error = within((1 << 30) + 1, limit(1 << 30)).unwrap_err().to_string();
        for part in ["/sys/fs/cgroup/kiosk", "1.00 GiB", "at most 1073741824"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
