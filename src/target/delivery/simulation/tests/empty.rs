//! Questions: empty requests, and what targets make of them.

use super::*;

#[test]
fn a_question_out_of_curiosity_is_answered_as_it_was_asked() {
    // It never takes an empty request. While that is asked for the first time, a batch is refused.
    every_seed(100, |seed| {
        let log = (0..40).map(|n| Fake::of([n]).at(ms(5 * n))).collect();
        let mut setup = Setup::new(seed, log);
        setup.rules.max_samples_per_send = 1;
        setup.manners.empty = Empty::Refused;
        setup.manners.cursed_entries = (2..40).step_by(2).map(|position| (position, 0)).collect();
        setup.manners.latency = (1, 300);
        World::new(setup).run();
    });
}

#[test]
fn curiosity_asks_once_and_costs_nothing_whatever_the_answer() {
    for empty in [Empty::Taken, Empty::Refused, Empty::Locked, Empty::LockedWithoutTenant, Empty::Fails] {
        for tenant in [0, 1] {
            let log = (0..300u64).map(|n| Fake::of([n]).tenant(tenant).at(ms(10 * n))).collect();
            let mut setup = Setup::new(1, log);
            setup.rules.max_samples_per_send = 1;
            setup.manners.empty = empty;
            let mut world = World::new(setup);
            world.run();
            assert_eq!(world.empty_requests, 1, "{empty:?}");
            assert!(world.events.is_empty(), "{empty:?}: {:?}", world.events);
            assert!(world.elapsed() < seconds(10), "{empty:?}: {:?}", world.elapsed());
            assert_eq!(world.savepoint.ledger.delivered, 300, "{empty:?}");
        }
    }
}

#[test]
fn a_refused_record_is_no_wedge_where_empty_requests_need_the_headers_of_the_data() {
    // Records of one tenant, and of two by turns: the question has the headers of what it is about.
    for tenants in [1, 2] {
        let log = (0..30u64).map(|n| Fake::of([n]).tenant(1 + (n % tenants) as u8).at(seconds(n))).collect();
        let mut setup = Setup::new(1, log);
        setup.manners.empty = Empty::LockedWithoutTenant;
        setup.manners.cursed_entries = [(10, 0), (30, 0)].into();
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.savepoint.ledger.refused, 2);
        assert_eq!(world.savepoint.ledger.delivered, 28);
        assert!(world.elapsed() < seconds(60), "{:?}", world.elapsed());
    }
}

#[test]
fn one_refused_record_stops_no_target_that_fails_for_each_empty_request() {
    for empty in [Empty::Refused, Empty::Locked, Empty::Fails] {
        let log = (0..100u64).map(|n| Fake::of([n]).at(seconds(n))).collect();
        let mut setup = Setup::new(1, log);
        setup.rules.max_samples_per_send = 1;
        setup.manners.empty = empty;
        setup.manners.cursed_series = [50].into();
        let mut world = World::new(setup);
        world.run();
        assert_eq!((world.savepoint.ledger.delivered, world.savepoint.ledger.refused), (99, 1), "{empty:?}");
    }
}
