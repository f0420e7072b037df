//! What the search for culprits may cost beyond the requests that are needed anyway. Pure.
//!
//! Two purses, so that neither empties the other: one for what is refused for the first time, and a smaller one for what is refused again and again:
//! of a pair of senders with equal labels all that the second one sends. Each request that is sent fills both, by less than itself, so that over time
//! the search costs a fixed part of the traffic: `r = 1 + share * r`. Halvings along records are free, and those of a witness of few entries.
//!
//! ```text
//!            at first    each request adds       all requests, if the purse is always empty
//!  search       1024            0.4                  1.67 x those without a search
//!  steady         64            0.05                 1.05 x
//! ```

use super::super::batch::Role;

/// What a search is paid from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purse {
    /// What is refused for the first time.
    Search,
    /// What is refused again and again.
    Steady,
}

impl Purse {
    /// That of a piece of this role.
    pub(super) fn of(role: Role) -> Purse {
        if role == Role::Culprits { Purse::Steady } else { Purse::Search }
    }
}

/// A halved piece is two requests more.
const HALVING: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
struct Money {
    left: f64,
    max: f64,
    per_request: f64,
}

/// See the module. In requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    search: Money,
    steady: Money,
}

impl Budget {
    pub(super) fn full() -> Budget {
        let full = |max, per_request| Money { left: max, max, per_request };
        Budget { search: full(1024.0, 0.4), steady: full(64.0, 0.05) }
    }

    /// A request was sent.
    pub(super) fn refill(&mut self) {
        for money in [&mut self.search, &mut self.steady] {
            money.left = (money.left + money.per_request).min(money.max);
        }
    }

    /// Whether it is enough to halve a piece.
    pub(super) fn allows(&self, purse: Purse) -> bool {
        let money = match purse {
            Purse::Search => &self.search,
            Purse::Steady => &self.steady,
        };
        money.left >= HALVING
    }

    /// A piece was halved.
    pub(super) fn pay(&mut self, purse: Purse) {
        let money = match purse {
            Purse::Search => &mut self.search,
            Purse::Steady => &mut self.steady,
        };
        money.left = (money.left - HALVING).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests for each one that was needed anyway, where everything is halved that may be.
    fn overhead(purse: Purse) -> f64 {
        let (mut budget, mut needed, mut all) = (Budget::full(), 0u32, 0u32);
        while needed < 100_000 {
            needed += 1;
            all += 1;
            budget.refill();
            while budget.allows(purse) {
                budget.pay(purse);
                all += 2;
                (0..2).for_each(|_| budget.refill());
            }
        }
        f64::from(all) / f64::from(needed)
    }

    #[test]
    fn the_search_costs_a_fixed_part_of_the_traffic() {
        assert!((1.6..1.7).contains(&overhead(Purse::Search)), "{}", overhead(Purse::Search));
        assert!((1.04..1.06).contains(&overhead(Purse::Steady)), "{}", overhead(Purse::Steady));
    }

    #[test]
    fn what_is_paid_without_being_asked_for_is_no_debt() {
        let mut budget = Budget::full();
        (0..1000).for_each(|_| budget.pay(Purse::Steady));
        (0..50).for_each(|_| budget.refill());
        assert!(budget.allows(Purse::Steady));
    }

    #[test]
    fn what_is_always_refused_leaves_the_purse_of_the_others_alone() {
        let mut budget = Budget::full();
        while budget.allows(Purse::Steady) {
            budget.pay(Purse::Steady);
        }
        assert!(budget.allows(Purse::Search));
        assert_eq!(budget.search.left, budget.search.max);
    }
}
