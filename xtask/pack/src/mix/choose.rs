//! Spends bytes where they keep most.

/// Steps that the room is divided into.
const STEPS: u64 = 1 << 12;

/// Which to make larger, by `bytes` each, so that the sum of the `losses` of the others is smallest and all fit
/// into `room` (the knapsack problem, by dynamic programming). Each takes whole bytes, or whole steps where
/// there are more bytes than steps. What loses nothing stays small.
pub fn choose(losses: &[f64], bytes: &[u64], room: u64) -> Vec<bool> {
    let step = room.div_ceil(STEPS).max(1);
    let room = (room / step) as usize;
    // The most that the first few keep in each part of the room, and whether the last of them is in it.
    let mut kept = vec![0.0; room + 1];
    let mut taken = Vec::new();
    for (&loss, &bytes) in losses.iter().zip(bytes) {
        let size = usize::try_from(bytes.div_ceil(step)).unwrap_or(usize::MAX);
        let mut row = vec![false; room + 1];
        for at in (size..=room).rev() {
            let with = kept[at - size] + loss;
            if loss > 0.0 && with > kept[at] {
                kept[at] = with;
                row[at] = true;
            }
        }
        taken.push((row, size));
    }
    let mut left = room;
    let mut marked: Vec<bool> = (taken.iter().rev())
        .map(|(row, size)| {
            let marked = row[left];
            left -= if marked { *size } else { 0 };
            marked
        })
        .collect();
    marked.reverse();
    marked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum<T: Copy + std::iter::Sum>(all: &[T], marked: &[bool]) -> T {
        all.iter().zip(marked).filter(|(_, marked)| **marked).map(|(x, _)| *x).sum()
    }

    /// The most that fits into `room`, all sets tried.
    fn best(losses: &[f64], bytes: &[u64], room: u64) -> f64 {
        let sets = (0_u32..1 << losses.len())
            .map(|set| -> Vec<bool> { (0..losses.len()).map(|i| set & 1 << i != 0).collect() });
        let fit = sets.filter(|set| sum(bytes, set) <= room);
        fit.map(|set| sum(losses, &set)).fold(0.0, f64::max)
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_the_best_that_fits(
            items in proptest::collection::vec((0.0..1.0_f64, 0..50_u64), 0..10),
            room in 0..200_u64,
        ) {
            let (losses, bytes): (Vec<f64>, Vec<u64>) = items.into_iter().unzip();
            let chosen = choose(&losses, &bytes, room);
            prop_assert!(sum(&bytes, &chosen) <= room);
            prop_assert!(sum(&losses, &chosen) >= best(&losses, &bytes, room) - 1e-9);
        }

        #[test]
        fn with_steps_it_is_the_best_but_for_a_step_each(
            items in proptest::collection::vec((0.0..1.0_f64, 0..5_000_000_000_u64), 0..10),
            room in 10_000_000_000..20_000_000_000_u64,
        ) {
            let (losses, bytes): (Vec<f64>, Vec<u64>) = items.into_iter().unzip();
            let chosen = choose(&losses, &bytes, room);
            prop_assert!(sum(&bytes, &chosen) <= room);
            let less = room - (losses.len() as u64 + 1) * room.div_ceil(STEPS);
            prop_assert!(sum(&losses, &chosen) >= best(&losses, &bytes, less) - 1e-9);
        }
    }

    #[test]
    fn nothing_is_spent_where_nothing_is_lost() {
        assert_eq!(choose(&[0.0, 1.0, -1e-9], &[1, 1, 1], 9), [false, true, false]);
        assert_eq!(choose(&[], &[], 9), [false; 0]);
        assert_eq!(choose(&[1.0], &[1], 0), [false]);
    }
}
