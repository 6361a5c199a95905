//! What is remembered of every page, and what that says about when it is wanted again.

use core::mem::{replace, take};
use core::ops::Range;

use crate::arena::{Arena, ArenaFull, PIECE_ALIGN};

/// What is remembered of every page, in RAM or not: what is known of pages that left is what keeps
/// a cache smaller than one token's pages from thrashing.
///
/// Each conversation has habits of its own. While one is computed alone, its habits tell which pages are
/// wanted next: where several take turns, what the others wanted last says nothing about it.
#[derive(Debug)]
pub struct History<'a> {
    pages: &'a mut [Usage],
    /// Of each conversation, where there are several: what its own tokens wanted.
    habits: &'a mut [Habits<'a>],
    /// The conversation that is being computed alone, where there are several.
    voice: Option<usize>,
    /// Pages of a bank.
    experts: u32,
    /// Uses so far: 64 bits, since 88 pages a token fill 32 within a year.
    uses: u64,
    /// The bank whose uses were counted last.
    bank: u32,
    forecast: Forecast,
}

/// One page's past.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// Share of all tokens that wanted it, averaged with the weights of [`History::HALF_LIVES`].
    rates: Rates,
    /// Expected tokens without it before the next with it.
    wait: f32,
    /// Number of its last use among all uses; 0 when never used.
    order: u64,
    /// Tokens of this batch that want it.
    fresh: u32,
}

/// What the tokens of one conversation wanted.
#[derive(Debug)]
struct Habits<'a> {
    /// It has been computed alone; before that the rest says nothing.
    are_known: bool,
    /// Of each page.
    rates: &'a mut [Rates],
}

/// Shares of tokens, fast to forget first.
pub type Rates = [f32; 3];

impl<'a> History<'a> {
    /// Tokens after which a use counts half, for each of the [`Rates`]: within a phrase, within a
    /// paragraph, and always.
    pub const HALF_LIVES: Rates = [3.0, 24.0, 192.0];

    /// Bytes for `pages` pages and so many conversations.
    pub const fn bytes(pages: usize, conversations: usize) -> usize {
        let habits = Self::habits(conversations);
        Arena::cost::<Usage>(pages)
            + Arena::cost::<Habits<'_>>(habits)
            + habits * Arena::cost::<Rates>(pages)
    }

    /// How many conversations have habits of their own: one alone has those of all tokens.
    const fn habits(conversations: usize) -> usize {
        if conversations > 1 { conversations } else { 0 }
    }

    /// Nothing has been used yet. A token uses `top_k` of a bank's `experts` pages.
    pub fn new(
        pages: usize,
        [experts, top_k]: [u32; 2],
        conversations: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let even = top_k as f32 / experts as f32;
        let forecast = Forecast::new(even);
        let unused =
            Usage { rates: [even; 3], wait: forecast.wait(&[even; 3]), order: 0, fresh: 0 };
        let habits = Self::habits(conversations);
        let mut list = arena.section(Arena::cost::<Habits<'_>>(habits), PIECE_ALIGN)?;
        let habits = list.build(habits, |_| {
            Ok(Habits { are_known: false, rates: arena.build(pages, |_| Ok([0.0; 3]))? })
        })?;
        let pages = arena.build(pages, |_| Ok(unused))?;
        Ok(Self { pages, habits, voice: None, experts, uses: 0, bank: 0, forecast })
    }

    /// What is used from now on is wanted by one conversation, or by several.
    pub fn listen(&mut self, voice: Option<usize>) {
        let voice = voice.filter(|&voice| voice < self.habits.len());
        if voice == self.voice {
            return;
        }
        self.voice = voice;
        if let Some(habits) = voice.map(|voice| &mut self.habits[voice])
            && !replace(&mut habits.are_known, true)
        {
            for (own, usage) in habits.rates.iter_mut().zip(&*self.pages) {
                *own = usage.rates;
            }
        }
        for page in 0..self.pages.len() {
            self.expect(page);
        }
    }

    /// A conversation ends: the next of that number has no habits yet.
    pub fn forget(&mut self, voice: usize) {
        if self.voice == Some(voice) {
            self.listen(None);
        }
        if let Some(habits) = self.habits.get_mut(voice) {
            habits.are_known = false;
        }
    }

    /// When `page` is wanted again follows from how often it was.
    fn expect(&mut self, page: usize) {
        let usage = &mut self.pages[page];
        let rates = match self.voice {
            Some(voice) => &self.habits[voice].rates[page],
            None => &usage.rates,
        };
        usage.wait = self.forecast.wait(rates);
    }

    /// `page` is used by `tokens` tokens of the batch.
    pub fn used(&mut self, page: u32, tokens: u32) {
        self.uses += 1;
        let usage = &mut self.pages[page as usize];
        usage.order = self.uses;
        usage.fresh = tokens;
    }

    /// All uses of `bank` by a batch of `tokens` tokens have been told: learns from them, most of all
    /// from those of answers.
    pub fn settle(&mut self, bank: u32, tokens: u32, is_answer: bool) {
        let keep = Self::HALF_LIVES.map(|life| libm::exp2f(-(tokens as f32) / life));
        let average = |rates: &mut Rates, share: f32| {
            for (rate, keep) in rates.iter_mut().zip(keep) {
                *rate = share + (*rate - share) * keep;
            }
        };
        for page in self.pages_of(bank) {
            let usage = &mut self.pages[page];
            let share = take(&mut usage.fresh) as f32 / tokens as f32;
            let own = self.voice.map(|voice| &mut self.habits[voice].rates[page]);
            // The next token of an answer is what the wait is about; prompts only count.
            if is_answer {
                self.forecast.learn(own.as_deref().unwrap_or(&usage.rates), share);
            }
            average(&mut usage.rates, share);
            if let Some(own) = own {
                average(own, share);
            }
            self.expect(page);
        }
        self.bank = bank;
    }

    /// Layers until `page` is expected to be wanted: until its bank's next turn, and a whole round
    /// of all banks for each token that is expected to do without it.
    pub fn distance(&self, page: u32) -> f32 {
        let banks = self.banks();
        let turn = (self.bank_of(page) + banks - self.bank - 1) % banks + 1;
        turn as f32 + banks as f32 * self.pages[page as usize].wait
    }

    /// Share of all tokens that wanted `page` in about the last [`History::HALF_LIVES`].
    pub fn rates(&self, page: u32) -> Rates {
        self.pages[page as usize].rates
    }

    /// Takes over what another run found out about `page`.
    pub fn recall(&mut self, page: u32, rates: Rates) {
        self.pages[page as usize].rates = rates;
        self.expect(page as usize);
    }

    /// How many pages there are.
    pub fn pages(&self) -> u32 {
        self.pages.len() as u32
    }

    /// When `page` was last used: greater is more recent.
    pub fn recency(&self, page: u32) -> u64 {
        self.pages[page as usize].order
    }

    /// Uses so far: the recency of what is used now.
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// The bank that `page` belongs to.
    pub fn bank_of(&self, page: u32) -> u32 {
        page / self.experts
    }

    /// How many banks there are.
    pub fn banks(&self) -> u32 {
        self.pages.len() as u32 / self.experts
    }

    fn pages_of(&self, bank: u32) -> Range<usize> {
        let from = (bank * self.experts) as usize;
        from..from + self.experts as usize
    }
}

/// The chance that the next token wants a page, given its [`Rates`]: a logistic regression on
/// their logarithms, learned from every token while running.
///
/// How much the last few tokens tell about the next differs between models and texts. With fixed
/// weights a text that stays with its topic and one that does not each lose several points of hit
/// rate to the other's optimum; learned ones follow both.
#[derive(Debug, Clone, Copy)]
struct Forecast {
    /// Of 1 and of each rate's logarithm.
    weights: [f32; 4],
    /// Sums of squared gradients (AdaGrad, <https://jmlr.org/papers/v12/duchi11a.html>).
    squares: [f32; 4],
}

impl Forecast {
    const STEP: f32 = 0.1;
    /// Keeps logarithms of rates finite.
    const LEAST: f32 = 1e-3;
    /// What the kiosk model and texts of one topic agree on.
    const FIRST: Rates = [0.3, 0.3, 0.1];

    /// Before anything was learned. Where all rates are `even`, so is the chance.
    fn new(even: f32) -> Self {
        let [a, b, c] = Self::FIRST;
        let even = even.clamp(Self::LEAST, 1.0 - Self::LEAST);
        let bias = libm::logf(even / (1.0 - even)) - (a + b + c) * libm::logf(even + Self::LEAST);
        Self { weights: [bias, a, b, c], squares: [1.0; 4] }
    }

    /// A token used the page (`share` 1) or did not (0).
    fn learn(&mut self, rates: &Rates, share: f32) {
        let inputs = Self::inputs(rates);
        let miss = self.chance(&inputs) - share;
        for ((weight, square), x) in self.weights.iter_mut().zip(&mut self.squares).zip(inputs) {
            let gradient = miss * x;
            *square += gradient * gradient;
            *weight -= Self::STEP * gradient / libm::sqrtf(*square);
        }
    }

    /// Expected tokens before the one that uses the page, were each token's chance the same.
    fn wait(&self, rates: &Rates) -> f32 {
        1.0 / self.chance(&Self::inputs(rates)) - 1.0
    }

    fn inputs(rates: &Rates) -> [f32; 4] {
        let [a, b, c] = rates.map(|rate| libm::logf(rate + Self::LEAST));
        [1.0, a, b, c]
    }

    fn chance(&self, inputs: &[f32; 4]) -> f32 {
        let sum: f32 = self.weights.iter().zip(inputs).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + libm::expf(-sum.clamp(-15.0, 15.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERTS: u32 = 8;

    fn history(memory: &mut [u8]) -> History<'_> {
        History::new(3 * EXPERTS as usize, [EXPERTS, 2], 2, &mut Arena::new(memory)).unwrap()
    }

    /// One token that uses these experts of every bank.
    fn token(history: &mut History<'_>, experts: &[u32]) {
        for bank in 0..history.banks() {
            experts.iter().for_each(|expert| history.used(bank * EXPERTS + expert, 1));
            history.settle(bank, 1, true);
        }
    }

    #[test]
    fn with_nothing_known_the_bank_that_was_just_used_is_furthest() {
        let mut memory = [0; 8192];
        let mut history = history(&mut memory);
        history.settle(1, 1, true);
        let distance = |page| history.distance(page);
        assert!(distance(2 * EXPERTS) < distance(0) && distance(0) < distance(EXPERTS));
    }

    #[test]
    fn what_is_used_more_is_expected_sooner() {
        let mut memory = [0; 8192];
        let mut history = history(&mut memory);
        for round in 0..200 {
            token(&mut history, &[0, 1 + round % 7]);
        }
        let [always, last, before] = [0, 1 + 199 % 7, 1 + 198 % 7].map(|p| history.distance(p));
        assert!(always < last && always < before);
        assert!(history.rates(0).iter().all(|&rate| rate > 0.5));
        assert!(history.recency(1 + 199 % 7) > history.recency(1 + 198 % 7));
        assert!(history.pages.iter().all(|usage| usage.wait.is_finite() && usage.wait >= 0.0));
    }

    #[test]
    fn it_is_learned_whether_recent_uses_come_again() {
        // Experts that stay for ten tokens, and experts that never come twice in a row.
        let wait_after = |expert_of: fn(u32) -> u32| {
            let mut memory = [0; 8192];
            let mut history = history(&mut memory);
            (0..400).for_each(|round| token(&mut history, &[expert_of(round)]));
            history.pages[expert_of(399) as usize].wait
        };
        assert!(wait_after(|round| round / 10 % EXPERTS) < 1.0);
        assert!(wait_after(|round| round % EXPERTS) > 2.0);
    }

    #[test]
    fn who_is_computed_alone_is_expected_to_go_on_as_before() {
        let mut memory = [0; 8192];
        let mut history = history(&mut memory);
        let takes_turn = |history: &mut History<'_>, voice: usize| {
            history.listen(Some(voice));
            // The experts of one are never those of the other.
            let first = 4 * voice as u32;
            (0..32).for_each(|round| token(history, &[first, first + 1 + round % 3]));
        };
        for voice in [0, 1, 0, 1] {
            takes_turn(&mut history, voice);
        }
        let is_first_of = |history: &History<'_>, voice: u32| {
            let own = history.distance(4 * voice);
            (0..EXPERTS).all(|page| page == 4 * voice || own < history.distance(page))
        };
        assert!(is_first_of(&history, 1));
        history.listen(Some(0));
        assert!(is_first_of(&history, 0), "it had no turn since, and goes on as before");
        // All tokens wanted those of either.
        let shares = [0, 4].map(|page| history.rates(page)[2]);
        assert!(shares.iter().all(|share| (0.3..0.7).contains(share)), "{shares:?}");
        history.listen(None);
        let [ended, other] = [0, 4].map(|page| history.distance(page));
        assert!(other < ended, "of all tokens, the last ones were the other's");
        // Whoever has its number next begins with what all tokens wanted.
        history.forget(0);
        history.listen(Some(0));
        assert_eq!([0, 4].map(|page| history.distance(page)), [ended, other]);
        history.listen(None);
        assert_eq!([0, 4].map(|page| history.distance(page)), [ended, other]);
    }

    #[test]
    fn a_prompt_counts_by_its_share() {
        let mut memory = [0; 8192];
        let mut history = history(&mut memory);
        history.used(0, 300);
        history.used(1, 3);
        history.settle(0, 300, false);
        assert!(history.rates(0).iter().all(|&rate| rate > 0.6));
        assert!(history.rates(1)[0] < 0.02);
    }
}
