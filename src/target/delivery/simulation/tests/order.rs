//! Order: of a series, of batches that share one, and of two lanes.

use super::*;

#[test]
fn a_series_keeps_its_order_whatever_the_target_answers() {
    every_seed(600, |seed| World::new(anything(seed)).run());
}

#[test]
fn without_lost_answers_delivered_is_what_is_stored_and_refused_what_is_not() {
    every_seed(400, |seed| {
        let mut setup = anything(seed);
        setup.manners.loses = 0;
        setup.manners.loses_answers = 0;
        setup.manners.refuses_connections = 0;
        setup.manners.spells.retain(|(_, _, spell)| matches!(spell, Spell::Down | Spell::Locked));
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.unanswered, 0);
        for refused in &world.refused {
            if refused.reason != Reason::Partial && refused.reason != Reason::Unsplit {
                for (record, chosen) in &refused.parts {
                    let position = record.header.position.0;
                    let all = world.log.fake(position).entries.len();
                    for number in (Part { record: 0, chosen: chosen.clone() }).numbers(all) {
                        assert!(!world.store.stored.contains_key(&(position, number)), "seed {seed}");
                    }
                }
            }
        }
    });
}

#[test]
fn the_third_batch_does_not_overtake_the_second_that_waits_for_the_first() {
    every_seed(200, |seed| {
        let log = vec![Fake::of([1]), Fake::of([1, 2]), Fake::of([2]), Fake::of([9])];
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log) };
        // One record is one request; the first one fails again and again.
        setup.rules.max_samples_per_send = 1;
        setup.manners.latency = (1, 500);
        setup.manners.fails = 300;
        setup.manners.loses_answers = 300;
        setup.manners.loses = 100;
        setup.manners.well_from = Some(seconds(60));
        World::new(setup).run();
    });
}

#[test]
fn two_lanes_keep_their_order_and_share_the_requests() {
    for share in [0.0, 0.2, 0.5, 0.8, 1.0] {
        let mut sums = [0; 2];
        every_seed_with(4, &mut sums, |seed, sums| {
            let log = (0..600u64).map(|n| Fake::of([n % 50, n % 50 + 100])).collect();
            let mut setup = Setup { has_two_lanes: true, learned: learned(), ..Setup::new(seed, log) };
            setup.rules.backlog_share = share;
            setup.rules.max_samples_per_send = 2;
            setup.manners.fails = seed * 10;
            let mut world = World::new(setup);
            // Of two lanes nobody promises the order between them.
            world.checks_order = false;
            while world.lane_requests.iter().all(|lane| *lane < 150) {
                assert!(world.step());
            }
            sums[0] += world.lane_requests[0];
            sums[1] += world.lane_requests[1];
            world.run();
        });
        let found = sums[0] as f64 / (sums[0] + sums[1]) as f64;
        println!("PRINT share {share}: {found:.2}");
        assert!((found - share).abs() < 0.1, "{found} instead of {share}");
    }
}

#[test]
fn what_expires_while_it_waits_leaves_the_one_that_it_waits_for_in_the_way() {
    // The first is in pieces when the target goes down, and does not expire; the second waits for it, and does; then the third comes.
    let log = vec![Fake::of([9, 8, 1, 7]), Fake::of([1]).at(seconds(1)), Fake::of([1]).at(seconds(63))];
    let mut expired = 0;
    every_seed_with(100, &mut expired, |seed, expired| {
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log.clone()) };
        setup.rules.max_samples_per_send = 1;
        setup.rules.sample_age_limit = Some(seconds(60));
        setup.manners.cursed_series = [8].into();
        setup.manners.latency = (5, 100);
        setup.manners.spells = vec![(ms(60), seconds(64), Spell::Down)];
        let mut world = World::new(setup);
        world.run();
        *expired += world.savepoint.ledger.expired;
    });
    assert!(expired >= 50, "{expired}: it did happen");
}

#[test]
fn what_is_taken_for_delivered_before_its_turn_leaves_the_one_that_it_waits_for_in_the_way() {
    // After a crash: the first fails alone; of the second, which may have arrived, all is refused; the third shares a series with both.
    let log = vec![Fake::of([1]), Fake::of((100..140).chain([1])), Fake::of([1, 7]), Fake::of([9]).at(seconds(20))];
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.poison = [1].into();
    setup.manners.cursed_entries = (0..40).map(|number| (2, number)).collect();
    let mut world = World::new(setup);
    let cut = |n: u64| Cut { first: Position(n), last: Position(n), is_possibly_delivered: n > 1 };
    world.savepoint.cuts = Cuts::of((1..=3).map(cut).collect(), Position(0));
    let resume = world.resume();
    world.delivery = Delivery::new(world.rules, pace(&world.rules), resume, world.now);
    // (In the life before.)
    world.unanswered = 1;
    world.run();
}
