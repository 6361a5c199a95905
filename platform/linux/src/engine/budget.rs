use std::fmt;

use rill::image::Image;
use rill::model::kv::KvFormat;
use rill::plan::{Plan, PlanError, PlanRequest, Sizes};
use rill::size::Size;

use super::LoadError;
use crate::memory;
use crate::model::Model;

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
    /// Beginnings of conversations that are kept for others; `None` to choose by the budget.
    pub prefixes: Option<u32>,
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
            prefixes: None,
        }
    }
}

impl BudgetOptions {
    /// Divides the budget for a model.
    pub fn plan(&self, model: &Model) -> Result<Budget, LoadError> {
        let total = match self.ram {
            Some(total) => total,
            None => memory::default_budget().map_err(LoadError::Free)?,
        };
        let overhead = memory::OVERHEAD + model.device.resident();
        let arena = total.saturating_sub(overhead);
        let request = PlanRequest {
            arena,
            context: self.context,
            batch: self.batch,
            kv: self.kv,
            conversations: self.conversations,
            prefixes: self.prefixes,
        };
        match Plan::new(&model.image, &request) {
            Ok(plan) => {
                let prefixes = self.prefixes.unwrap_or_default();
                Ok(Budget { total, overhead, plan, prefixes })
            }
            Err(PlanError::BelowLeast { least, .. }) => {
                Err(LoadError::Budget { budget: total, least: least + overhead })
            }
            Err(error) => Err(LoadError::Plan(error)),
        }
    }
}

/// A budget, divided. Displayed as one line for the user who named none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that the whole process may use.
    pub total: u64,
    /// Bytes of it outside the arena.
    pub overhead: u64,
    /// The arena.
    pub plan: Plan,
    /// Known beginnings that were asked for.
    prefixes: u32,
}

impl Budget {
    /// The least budget that works for this context, and the most of any use.
    pub fn bounds(&self, image: &Image) -> [u64; 2] {
        let (sizes, prefixes) = (self.plan.sizes, self.prefixes);
        let least = Plan::least(image, Sizes { batch: 1, prefixes, ..sizes });
        let most = Plan::most(image, sizes);
        [least, most].map(|arena| arena + self.overhead)
    }

    /// What the process will use of it.
    pub fn used(&self) -> u64 {
        self.plan.total() + self.overhead
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
