//! What the search for culprits may cost beyond the requests that are needed anyway. Pure.
//!
//! Two purses, so that neither empties the other: one for what is refused for the first time, and a smaller one for what is refused again and again:
//! of a pair of senders with equal labels all that the second one sends. Each request that is sent fills both, by less than itself, so that over time
//! the search costs a fixed part of the traffic: `r = 1 + share * r`. Halvings along records are free, and those of a witness of few entries.
//!
//! ```text
//!            at first    each request adds       all requests, if the purse is always empty
//!  main         1024            0.4                  1.67 x those without a search
//!  culprits       64            0.05                 1.05 x
//! ```

use super::super::batch::Role;

/// A halved piece is two requests more.
const HALVING: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
struct Purse {
    left: f64,
    max: f64,
    per_request: f64,
}

/// See the module. In requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    main: Purse,
    culprits: Purse,
}

impl Budget {
    pub(super) fn full() -> Budget {
        let purse = |max, per_request| Purse { left: max, max, per_request };
        Budget { main: purse(1024.0, 0.4), culprits: purse(64.0, 0.05) }
    }

    /// A request was sent.
    pub(super) fn refill(&mut self) {
        for purse in [&mut self.main, &mut self.culprits] {
            purse.left = (purse.left + purse.per_request).min(purse.max);
        }
    }

    /// Whether it is enough to halve a piece.
    pub(super) fn allows(&self, role: Role) -> bool {
        let purse = if role == Role::Culprits { &self.culprits } else { &self.main };
        purse.left >= HALVING
    }

    /// A piece was halved.
    pub(super) fn pay(&mut self, role: Role) {
        let purse = if role == Role::Culprits { &mut self.culprits } else { &mut self.main };
        purse.left -= HALVING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests for each one that was needed anyway, where everything is halved that may be.
    fn overhead(role: Role) -> f64 {
        let (mut budget, mut needed, mut all) = (Budget::full(), 0u32, 0u32);
        while needed < 100_000 {
            needed += 1;
            all += 1;
            budget.refill();
            while budget.allows(role) {
                budget.pay(role);
                all += 2;
                (0..2).for_each(|_| budget.refill());
            }
        }
        f64::from(all) / f64::from(needed)
    }

    #[test]
    fn the_search_costs_a_fixed_part_of_the_traffic() {
        assert!((1.6..1.7).contains(&overhead(Role::Main)), "{}", overhead(Role::Main));
        assert!((1.04..1.06).contains(&overhead(Role::Culprits)), "{}", overhead(Role::Culprits));
    }

    #[test]
    fn what_is_always_refused_leaves_the_purse_of_the_others_alone() {
        let mut budget = Budget::full();
        while budget.allows(Role::Culprits) {
            budget.pay(Role::Culprits);
        }
        assert!(budget.allows(Role::Main));
        assert_eq!(budget.main.left, budget.main.max);
    }
}
