//! What fails alone, and when all fails.

use super::*;
use crate::target::outcome::Reason as HoldReason;

#[test]
fn a_poison_series_is_given_up_after_a_while_and_others_flow() {
    for max_in_flight in [1, 4] {
        every_seed_with(4, &mut (), |seed, ()| {
            // One sender has the poison among its series, two others have not.
            let log = (0..600u64)
                .map(|n| {
                    let sender = n % 3;
                    let last = if sender == 1 { 12 } else { 10 };
                    Fake::of(100 * sender + 1..100 * sender + last).from(sender as u8).at(seconds(1) * n as u32)
                })
                .collect();
            let mut setup = Setup { learned: learned(), rules: rules(max_in_flight), ..Setup::new(seed, log) };
            setup.manners.poison = [111].into();
            let mut world = World::new(setup);
            world.run();
            let poisoned = world.refused_for(Reason::Poison);
            assert_eq!(poisoned, 200, "every one of it, and nothing else");
            assert_eq!(world.savepoint.ledger.delivered + 200, world.log.total());
            let first = world.told_at[&2];
            let mut innocent = Duration::ZERO;
            for (position, at) in &world.told_at {
                let fake = world.log.fake(*position);
                if fake.sender != 1 {
                    innocent = innocent.max(at.saturating_sub(fake.at));
                }
            }
            if seed < 2 {
                println!(
                    "PRINT poison, {max_in_flight} in flight: given up after {first:?}, innocents wait {innocent:?} at most, {} requests",
                    world.requests
                );
            }
            assert!(first >= seconds(120) && first < seconds(600), "{first:?}");
            // As long as it is not known what it is, records that are merged with more of it wait for it.
            assert!(innocent < seconds(180), "{innocent:?}");
            assert!(world.requests < 1200, "{}", world.requests);
        });
    }
}

#[test]
fn two_poisons_in_different_batches_do_not_hold_the_others_up() {
    every_seed_with(4, &mut (), |seed, ()| {
        let log = (0..900u64)
            .map(|n| {
                let sender = n % 3;
                let last = if sender > 0 { 12 } else { 10 };
                Fake::of(100 * sender + 1..100 * sender + last).from(sender as u8).at(seconds(1) * n as u32)
            })
            .collect();
        let mut setup = Setup { learned: learned(), rules: rules(4), ..Setup::new(seed, log) };
        setup.manners.poison = [111, 211].into();
        let mut world = World::new(setup);
        world.run();
        let mut innocent = Duration::ZERO;
        for (position, at) in &world.told_at {
            let fake = world.log.fake(*position);
            if fake.sender == 0 {
                innocent = innocent.max(at.saturating_sub(fake.at));
            }
        }
        if seed < 2 {
            println!("PRINT two poisons: innocents wait {innocent:?} at most, {} requests", world.requests);
        }
        assert_eq!(world.refused_for(Reason::Poison), 600);
        assert!(innocent < seconds(600), "{innocent:?}");
    });
}

#[test]
fn when_everything_fails_nothing_is_given_up() {
    for spell in [Spell::Down, Spell::Gone, Spell::Mute, Spell::Locked] {
        every_seed_with(6, &mut (), |seed, ()| {
            let mut random = fastrand::Rng::with_seed(seed);
            let log =
                (0..200).map(|n| Fake::of(n % 7..n % 7 + 5).at(seconds(5) * n as u32).tenant(u8::from(seed % 2 == 1)));
            let mut setup =
                Setup { learned: learned(), rules: some_rules(&mut random), ..Setup::new(seed, log.collect()) };
            let from = ms(random.u64(1..200_000));
            setup.manners.spells = vec![(from, from + seconds(3 * 3600), spell)];
            let mut world = World::new(setup);
            world.run();
            assert_eq!(world.savepoint.ledger.refused, 0, "seed {seed} {spell:?}");
            assert_eq!(world.savepoint.ledger.delivered, world.log.total());
        });
    }
}

#[test]
fn a_tenant_that_is_locked_out_stops_nobody_for_ever() {
    every_seed_with(4, &mut (), |seed, ()| {
        let log = (0..900u64).map(|n| Fake::of(1..10).tenant(1 + (n % 3) as u8).at(seconds(1) * n as u32)).collect();
        let mut setup = Setup { learned: learned(), rules: rules(4), ..Setup::new(seed, log) };
        setup.manners.locked_tenants = vec![(2, Duration::ZERO)];
        let mut world = World::new(setup);
        world.run();
        let mut innocent = Duration::ZERO;
        for (position, at) in &world.told_at {
            let fake = world.log.fake(*position);
            if fake.tenant != 2 {
                innocent = innocent.max(at.saturating_sub(fake.at));
            }
        }
        if seed < 2 {
            println!(
                "PRINT locked tenant: given up after {:?}, others wait {innocent:?} at most, {} requests",
                world.told_at[&2], world.requests
            );
        }
        assert_eq!(world.refused_for(Reason::Poison), 9 * 300);
        // So many batches are held, most of them of this tenant's.
        assert!(innocent < seconds(180), "{innocent:?}");
        assert!(world.told_at[&2] >= seconds(120));
    });
}

#[test]
fn poison_is_found_out_where_empty_requests_need_the_headers_of_the_data_or_are_never_taken() {
    for (empty, takes_empty) in [(Empty::LockedWithoutTenant, true), (Empty::Refused, false)] {
        for max_in_flight in [1, 4] {
            let log = (0..20u64).map(|n| Fake::of(1..12).tenant(1).at(seconds(n))).collect();
            let mut setup = Setup { rules: rules(max_in_flight), ..Setup::new(1, log) };
            setup.learned = Learned { has_delivered: true, takes_empty: Some(takes_empty), ..Learned::default() };
            setup.manners.empty = empty;
            setup.manners.poison = [5, 6].into();
            let mut world = World::new(setup);
            world.run();
            assert_eq!(world.refused_for(Reason::Poison), 2 * 20, "{empty:?}");
            assert_eq!(world.savepoint.ledger.delivered, 9 * 20, "{empty:?}");
            assert!(world.elapsed() < seconds(1800), "{empty:?}: {:?}", world.elapsed());
        }
    }
}

#[test]
fn a_series_that_fails_and_recovers_by_turns_is_not_poison_before_its_time() {
    let log = (0..400u64).map(|n| Fake::of(1..12).at(seconds(n))).collect();
    let mut setup = Setup { learned: learned(), rules: rules(4), ..Setup::new(1, log) };
    setup.rules.poison_after = seconds(600);
    setup.manners.poison = [5].into();
    let mut world = World::new(setup);
    // It failed alone, is taken a while later, and fails again for five seconds.
    while !world.delivery.culprits.has_suspects() {
        assert!(world.step());
    }
    let until = world.now + seconds(45);
    while world.now < until {
        assert!(world.step());
    }
    world.manners.poison.clear();
    let settled = world.savepoint.settled.position;
    while world.savepoint.settled.position == settled {
        assert!(world.step());
    }
    world.manners.poison = [5].into();
    let until = world.now + seconds(5);
    while world.now < until {
        assert!(world.step());
    }
    assert!(world.elapsed() < seconds(600));
    assert_eq!(world.refused_for(Reason::Poison), 0);
    world.manners.poison.clear();
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, world.log.total());
}

#[test]
fn what_cannot_be_looked_into_is_not_overtaken_while_it_fails_alone() {
    let opaque = Fake { is_opaque: true, ..Fake::of([1, 5]) };
    let others = (0..300).map(|n| Fake::of([9]).at(seconds(n)));
    let log = [opaque, Fake::of([1])].into_iter().chain(others).collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.rules.poison_after = seconds(600);
    setup.manners.poison = [5].into();
    let mut world = World::new(setup);
    while world.elapsed() < seconds(200) {
        assert!(world.step());
    }
    assert!(world.events.iter().any(|event| matches!(event, Event::Isolated { .. })));
    world.manners.poison.clear();
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, world.log.total());
}

#[test]
fn what_is_held_is_kept_whatever_else_the_target_takes() {
    // One request of a version that it does not understand, and others that it takes.
    let mut log: Vec<Fake> = (0..200u64).map(|n| Fake::of([n % 20]).at(seconds(5 * n))).collect();
    log[10] = Fake { kind: Kind::Write2, ..Fake::of([100]).at(seconds(50)) };
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.not_understood = Some(Kind::Write2);
    let mut world = World::new(setup);
    world.run_for(seconds(2 * 3600), 100_000);
    assert_eq!(world.savepoint.ledger.refused, 0);
    assert!(world.events.contains(&Event::BeganHolding(HoldReason::Status(415))));
    world.manners.not_understood = None;
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 200);
}

#[test]
fn poison_that_is_the_only_series_to_come_once_is_found() {
    // Scrapes of the same series, merged; one of them has one more.
    let scrapes = (0..10u64).map(|n| Fake::of((0..50).chain((n == 4).then_some(777)))).collect();
    for log in [scrapes, vec![Fake::of([777, 1, 1])]] {
        every_seed(20, |seed| {
            let mut setup = Setup { learned: learned(), ..Setup::new(seed, log.clone()) };
            setup.manners.poison = [777].into();
            let mut world = World::new(setup);
            world.run();
            assert_eq!(world.refused_for(Reason::Poison), 1, "seed {seed}");
            assert_eq!(world.savepoint.ledger.refused, 1);
        });
    }
}

#[test]
fn two_poisons_of_one_record_are_tried_in_turn_and_slowly_and_others_do_not_wait() {
    let first = Fake::of([1, 2, 777, 778]);
    let log = std::iter::once(first).chain((0..900u64).map(|n| Fake::of([1, 3]).at(seconds(n))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log.collect()) };
    setup.rules.poison_after = seconds(600);
    setup.manners.poison = [777, 778].into();
    setup.manners.latency = (5, 50);
    let mut world = World::new(setup);
    world.run();
    let waited = |position: u64| world.told_at[&position] - world.log.fake(position).at;
    let most = (2..=901).map(waited).max().expect("there are some");
    assert!(most < seconds(30), "{most:?}");
    assert!(world.requests < 1100, "{} requests for 901", world.requests);
    assert_eq!(world.refused_for(Reason::Poison), 2);
}

#[test]
fn a_drop_within_a_batch_sends_nothing_again_that_others_went_on_with() {
    // Of two records nothing but poison is left, and later ones go on with what was taken of them; then the first is dropped.
    let mut log = vec![Fake::of([777])];
    log.extend((0..2u64).map(|n| Fake::of([1 + n, 777]).at(seconds(40))));
    log.extend((0..400u64).map(|n| Fake::of([2]).at(seconds(41) + ms(100 * n))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.poison = [777].into();
    setup.manners.latency = (50, 500);
    let mut world = World::new(setup);
    while world.elapsed() < seconds(60) {
        assert!(world.step());
    }
    world.book();
    world.drop_up_to(2);
    world.run_for(seconds(7200), 10_000);
    assert!(world.is_done());
}

#[test]
fn poison_that_is_all_there_is_of_a_batch_is_found_by_what_others_do_not_share_with_it() {
    let mut merged: Vec<Fake> = (0..10u64).map(|_| Fake::of([777, 778])).collect();
    merged.extend((0..200u64).map(|n| Fake::of([1, 777, 778]).at(seconds(15 * n + 5))));
    let of_two_senders = (0..200u64).flat_map(|n| {
        [Fake::of([777, 778]).from(1).at(seconds(15 * n)), Fake::of(1..10).from(2).at(seconds(15 * n + 5))]
    });
    for log in [merged, of_two_senders.collect()] {
        for max_in_flight in [1, 4] {
            every_seed(10, |seed| {
                let mut setup = Setup { learned: learned(), ..Setup::new(seed, log.clone()) };
                setup.rules = rules(max_in_flight);
                setup.manners.poison = [777, 778].into();
                let mut world = World::new(setup);
                world.run();
                let poison = (1..=world.log.end()).map(|position| &world.log.fake(position).entries);
                let poison = poison.flatten().filter(|entry| entry.series >= 777).count() as u64;
                assert_eq!(world.savepoint.ledger.refused, poison, "seed {seed}");
            });
        }
    }
}

#[test]
fn poison_that_is_known_and_fails_in_a_moment_of_trouble_stops_nobody() {
    let log = (0..900u64).map(|n| Fake::of([1, 2, 777, 778]).at(seconds(n))).collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.poison = [777, 778].into();
    setup.manners.latency = (5, 50);
    let trouble = |n: u64| seconds(500) + ms(1013 * n);
    setup.manners.spells = (0..10).map(|n| (trouble(n), trouble(n) + ms(300), Spell::Gone)).collect();
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 2 * 900);
}

#[test]
fn what_shares_nothing_with_poison_does_not_wait_also_if_nothing_of_its_batch_was_settled() {
    let scrapes =
        (0..600u64).map(|n| if n % 300 == 0 { Fake::of([777, 3]) } else { Fake::of([3, 4]) }.at(ms(100) + seconds(n)));
    let log = std::iter::once(Fake::of([777])).chain(scrapes).collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.rules.poison_after = seconds(300);
    setup.manners.poison = [777].into();
    setup.manners.latency = (5, 50);
    let mut world = World::new(setup);
    world.run();
    let innocent = (1..=world.log.end()).filter(|n| world.log.fake(*n).entries.iter().all(|entry| entry.series != 777));
    let waited = innocent.map(|n| world.told_at[&n] - world.log.fake(n).at).max().expect("there are some");
    assert!(waited < seconds(60), "{waited:?}");
}

#[test]
fn with_one_request_at_a_time_what_starts_over_waits_again_for_what_it_shares() {
    every_seed(50, |seed| {
        let log = vec![Fake::of([1, 5]), Fake::of([5, 7]).at(seconds(1)), Fake::of([9]).at(seconds(400))];
        let mut setup = Setup { learned: learned(), rules: rules(1), ..Setup::new(seed, log) };
        setup.rules.max_samples_per_send = 2;
        setup.rules.poison_after = seconds(600);
        setup.manners.poison = [5].into();
        setup.manners.cursed_series = [7].into();
        let mut world = World::new(setup);
        // What the second does not share with the first goes beside it, and is refused; then the target goes mad.
        while world.delivery.batches.get(&BatchId(1)).is_none_or(|second| !second.was_attempted) {
            assert!(world.step());
        }
        world.manners.cursed_series.clear();
        let at = world.elapsed();
        world.manners.spells = vec![(at, at + seconds(20), Spell::Mad)];
        while world.elapsed() < at + seconds(60) {
            assert!(world.step());
        }
        world.manners.poison.clear();
        world.run();
    });
}

#[test]
fn a_drop_of_what_keeps_back_a_record_that_was_taken_in_part_lets_it_be_told() {
    let mut log: Vec<Fake> = (0..3u64).map(|n| Fake::of([1, 2, 5]).at(seconds(20 * n))).collect();
    log.push(Fake { kind: Kind::Write2, ..Fake::of([1, 8, 5]).at(seconds(80)) });
    log.push(Fake { kind: Kind::Write2, ..Fake::of([1, 9, 2]).at(seconds(80)) });
    log.push(Fake::of([7]).at(seconds(100)));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.cursed_series = [5].into();
    let mut world = World::new(setup);
    while world.elapsed() < seconds(70) {
        assert!(world.step());
    }
    world.manners.cursed_series = [1].into();
    world.manners.poison = [5].into();
    while world.elapsed() < seconds(85) {
        assert!(world.step());
    }
    world.book();
    world.drop_up_to(4);
    world.manners.poison.clear();
    world.run_for(seconds(7200), 10_000);
    assert!(world.is_done());
}

#[test]
fn of_batches_that_are_full_and_wait_what_they_do_not_share_shows_whether_the_target_takes_anything() {
    // Two scrapes fill a batch.
    let log = (0..20u64).map(|n| if n < 2 { Fake::of([777, 778]) } else { Fake::of([777, 778, 1]) });
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log.collect()) };
    setup.rules.max_samples_per_send = 4;
    setup.manners.poison = [777, 778].into();
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 18);
}

#[test]
fn a_second_batch_of_poison_does_not_hide_that_the_target_takes_the_third() {
    let log = vec![Fake::of([777, 778]), Fake::of([779, 777]), Fake::of([1])];
    let mut setup = Setup { learned: learned(), rules: rules(1), ..Setup::new(1, log) };
    setup.rules.max_samples_per_send = 2;
    setup.manners.poison = [777, 778, 779].into();
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.savepoint.ledger.delivered, world.refused_for(Reason::Poison)), (1, 4));
}
