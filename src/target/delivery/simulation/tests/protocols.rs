//! In which protocol a target is sent, and what is left out of a request.

use super::*;

fn of_2(fake: Fake) -> Fake {
    Fake { kind: Kind::Write2, ..fake }
}

/// A record a minute.
fn minutes(minutes: u64) -> Vec<Fake> {
    (0..minutes).map(|n| Fake::of([n % 10]).at(seconds(60 * n))).collect()
}

#[test]
fn a_target_that_takes_2_0_is_asked_once_and_sent_what_came_as_it_came() {
    let log = minutes(180).into_iter().enumerate().map(|(n, fake)| if n % 2 == 0 { of_2(fake) } else { fake });
    let mut world = World::new(Setup { learned: learned(), ..Setup::new(1, log.collect()) });
    world.run();
    assert_eq!((world.sent_in, world.protocol_questions), ([90, 90], 1));
}

#[test]
fn a_target_that_does_not_take_2_0_is_sent_1_0_and_asked_again_every_hour() {
    let mut setup = Setup { learned: learned(), ..Setup::new(1, minutes(180).into_iter().map(of_2).collect()) };
    setup.manners.lacks = Some((Protocol::V2, seconds(90 * 60)));
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 180, "nothing of it was swallowed");
    assert_eq!((world.sent_in, world.protocol_questions), ([120, 60], 3), "at the start, after one hour, after two");
    let told = |event: &Event| world.events.iter().filter(|other| *other == event).count();
    assert_eq!(told(&Event::NotTaken(HoldReason::Not2(204))), 2);
    assert_eq!(told(&Event::Taken(Protocol::V2)), 1);
}

#[test]
fn a_target_that_does_not_take_1_0_is_sent_2_0() {
    let mut setup = Setup { learned: learned(), ..Setup::new(1, minutes(50)) };
    setup.manners.lacks = Some((Protocol::V1, Duration::MAX));
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 50);
    assert_eq!((world.sent_in, world.protocol_questions), ([1, 50], 1), "the first one is tried as it came");
}

#[test]
fn a_target_that_takes_neither_is_held_and_nothing_is_lost() {
    for kind in [Kind::Write1, Kind::Write2] {
        let log = minutes(30).into_iter().map(|fake| Fake { kind, ..fake }).collect();
        let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
        setup.manners.takes_nothing = true;
        let mut world = World::new(setup);
        world.run_for(seconds(3600), 100_000);
        assert_eq!(world.savepoint.settled.position, Position(0));
        assert!(world.events.iter().any(|event| matches!(event, Event::BeganHolding(_))), "{:?}", world.events);
        assert!(world.requests < 3 * 120, "{} requests in an hour of which each pause is 30 s", world.requests);
        world.manners.takes_nothing = false;
        let mended_at = world.elapsed();
        world.run();
        assert_eq!(world.savepoint.ledger.delivered, 30);
        assert!(world.elapsed() - mended_at < seconds(60), "it is tried again and again");
    }
}

#[test]
fn a_tenant_who_is_locked_out_stops_no_other_for_long_though_his_questions_fail_as_well() {
    // Nothing is known of the target at first; and the other one has headers, or none.
    for (rule, other) in [(ProtocolRule::Auto, 2), (ProtocolRule::Always(Protocol::V2), 2), (ProtocolRule::Auto, 0)] {
        every_seed(20, |seed| {
            let log = (0..1000u64).map(|n| {
                let tenant = if n < 100 && n % 2 == 0 { 1 } else { other };
                of_2(Fake::of([n % 5]).tenant(tenant).at(seconds(n)))
            });
            let mut setup = Setup::new(seed, log.collect());
            setup.rules.protocol = rule;
            setup.manners.locked_tenants = vec![(1, Duration::ZERO)];
            let mut world = World::new(setup);
            world.run();
            assert_eq!((world.savepoint.ledger.delivered, world.refused_for(Reason::Poison)), (950, 50), "seed {seed}");
            assert!(world.elapsed() < seconds(1100), "seed {seed}: {:?}", world.elapsed());
        });
    }
}

#[test]
fn of_three_tenants_two_of_whom_are_locked_out_one_after_the_other_the_third_goes_on() {
    every_seed(20, |seed| {
        // The second one was taken last when he is locked out himself.
        let log = (0..2000u64).map(|n| {
            let tenant = if n < 1000 { 1 + (n % 3) as u8 } else { 3 };
            of_2(Fake::of([n % 5]).tenant(tenant).at(seconds(n)))
        });
        let mut setup = Setup::new(seed, log.collect());
        setup.manners.locked_tenants = vec![(1, seconds(50)), (2, seconds(100 + seed))];
        let mut world = World::new(setup);
        world.run();
        let ledger = world.savepoint.ledger;
        assert_eq!(ledger.delivered + world.refused_for(Reason::Poison), 2000, "seed {seed}");
        assert!(ledger.delivered >= 1333, "seed {seed}: {ledger:?}");
        assert!(world.elapsed() < seconds(2100), "seed {seed}: {:?}", world.elapsed());
    });
}

#[test]
fn it_is_asked_once_however_many_wait_for_the_answer() {
    let log = (0..20).map(|n| of_2(Fake::of([n]))).collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.rules = rules(8);
    setup.rules.max_samples_per_send = 1;
    setup.manners.latency = (100, 100);
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.protocol_questions, world.sent_in), (1, [0, 20]));
}

#[test]
fn a_target_that_fails_for_each_empty_request_is_found_to_take_2_0_by_data() {
    for empty in [Empty::Refused, Empty::Locked, Empty::Fails] {
        for lacks in [None, Some((Protocol::V2, Duration::MAX))] {
            let log = minutes(30).into_iter().map(of_2).collect();
            let mut setup = Setup::new(1, log);
            (setup.manners.empty, setup.manners.lacks, setup.manners.is_mute_of_empty) = (empty, lacks, true);
            let mut world = World::new(setup);
            world.run();
            assert_eq!(world.savepoint.ledger.delivered, 30, "{empty:?} {lacks:?}");
        }
    }
}

#[test]
fn what_1_0_has_no_place_for_is_dropped_and_the_rest_delivered() {
    let custom = |series| Entry { series, floats: 0, histograms: 1, is_custom: true };
    let log = (0..20u64).map(|n| {
        let fake = Fake::of([n % 3, n % 5]);
        // Every fourth record has nothing else.
        let entries = if n % 4 == 3 { vec![custom(7)] } else { [fake.entries.clone(), vec![custom(7)]].concat() };
        of_2(Fake { entries, ..fake })
    });
    every_seed(50, |seed| {
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log.clone().collect()) };
        setup.rules.protocol = ProtocolRule::Always(Protocol::V1);
        setup.manners.cursed_series = [4].into();
        let mut world = World::new(setup);
        world.run();
        let ledger = world.savepoint.ledger;
        let cursed =
            world.log.fakes.iter().flat_map(|fake| &fake.entries).filter(|entry| entry.series == 4).count() as u64;
        assert_eq!((ledger.dropped, ledger.refused, ledger.delivered), (20, cursed, 30 - cursed), "seed {seed}");
    });
}

#[test]
fn what_rules_leave_nothing_of_is_settled_without_a_request_and_in_its_turn() {
    let log: Vec<Fake> = (0..300u64)
        .map(|n| if n % 10 == 0 { Fake::of([n % 7]) } else { Fake { filtered: 5, ..Fake::of([]) } })
        .map(|fake| fake.at(seconds(1)))
        .collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.spells = vec![(Duration::ZERO, seconds(60), Spell::Down)];
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.savepoint.ledger.filtered, world.savepoint.ledger.delivered), (270 * 5, 30));
    assert!(world.sent_in[0] < 60, "{:?}", world.sent_in);
}

#[test]
fn a_pause_while_the_target_is_asked_what_it_takes_stops_nothing() {
    let mut setup = Setup { learned: learned(), ..Setup::new(1, minutes(3).into_iter().map(of_2).collect()) };
    setup.manners.latency = (50, 50);
    let mut world = World::new(setup);
    assert!(world.step());
    assert_eq!(world.protocol_questions, 1);
    for id in world.in_flight.keys().copied().collect::<Vec<_>>() {
        world.delivery.abandon(id, world.now);
        world.in_flight.clear();
        world.due.clear();
    }
    world.delivery.pause(true, world.now);
    world.run();
    assert_eq!(world.savepoint.ledger.delivered, 3);
}

#[test]
fn the_question_what_a_target_takes_is_no_piece_of_a_batch_that_fails_alone() {
    // What it is known not to take is forgotten while a batch of poison is in doubt, the only one there is.
    every_seed(40, |seed| {
        let mut log = vec![of_2(Fake::of([1, 2]))];
        log.push(of_2(Fake::of([1, 2, 777])).at(seconds(3560 + seed)));
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log) };
        setup.manners.lacks = Some((Protocol::V2, seconds(3500)));
        setup.manners.poison = [777].into();
        World::new(setup).run();
    });
}

#[test]
fn a_target_that_has_said_what_it_takes_is_known_to_take_empty_requests() {
    // It begins to refuse everything, empty requests as well, with the second record.
    let log = minutes(30).into_iter().map(of_2).collect();
    let mut setup = Setup::new(1, log);
    setup.manners.spells = vec![(seconds(30), seconds(20 * 60), Spell::Mad)];
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.savepoint.ledger.delivered, world.savepoint.ledger.refused), (30, 0));
    assert!(world.events.contains(&Event::BeganSuspect));
}
