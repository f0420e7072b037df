//! What is resumed: after crashes and power cuts, after drops, seeks and pauses, from as many cuts as a savepoint holds.

use super::*;

#[test]
fn a_series_keeps_its_order_over_crashes_and_power_cuts() {
    every_seed(600, |seed| {
        let mut setup = anything(seed);
        setup.disturbances = Disturbances { crashes: 100, power_cuts: 50, ..Disturbances::default() };
        World::new(setup).run();
    });
}

#[test]
fn drops_seeks_and_pauses_leave_nothing_behind() {
    every_seed(600, |seed| {
        let mut setup = anything(seed);
        setup.disturbances = Disturbances { crashes: 30, power_cuts: 10, drops: 100, seeks: 50, pauses: 100 };
        let mut world = World::new(setup);
        // What is sent again on purpose is not in order.
        world.checks_order = false;
        world.run();
    });
}

#[test]
fn many_batches_that_are_halved_at_once_fit_into_a_savepoint() {
    every_seed(100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let log = (0..600).map(|n| Fake::of([n, n + 10_000])).collect();
        let mut setup =
            Setup { rules: rules([8, 16, 30][random.usize(0..3)]), learned: learned(), ..Setup::new(seed, log) };
        setup.rules.max_samples_per_send = random.u64(4..20);
        setup.manners.cursed_entries = (0..100).map(|_| (random.u64(1..=600), random.u32(0..2))).collect();
        setup.manners.latency = (50, 5000);
        setup.manners.known = Known::Refused;
        setup.disturbances = Disturbances { crashes: 60, power_cuts: 10, ..Disturbances::default() };
        World::new(setup).run();
    });
}

#[test]
fn a_former_life_with_as_many_cuts_as_fit_goes_on() {
    let log: Vec<Fake> = (0..100).map(|n| Fake::of([n])).collect();
    let mut setup = Setup::new(1, log);
    setup.learned = learned();
    let mut world = World::new(setup);
    let cut = |n: u64| Cut { first: Position(2 * n + 1), last: Position(2 * n + 2), is_possibly_delivered: true };
    world.savepoint.cuts = Cuts::of((0..32).map(cut).collect(), Position(0));
    let resume = world.resume();
    world.delivery = Delivery::new(world.rules, pace(&world.rules), resume, world.now);
    world.run();
    assert_eq!(world.stored(), 100);
}

#[test]
fn a_cut_of_many_that_a_savepoint_has_no_room_for_is_sent_in_parts() {
    // Poison stays for long. A merged batch behind it has more records with its series than a savepoint has ranges; others flow.
    let mut log = vec![Fake::of([5])];
    let behind = |n: u64| if n.is_multiple_of(2) { Fake::of([5, 100 + n]) } else { Fake::of([100 + n]) };
    log.extend((0..200u64).map(|n| behind(n).at(seconds(30))));
    log.extend((0..10_000u64).map(|n| Fake::of([1000 + n % 50]).at(seconds(60) + ms(10 * n))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.rules.poison_after = seconds(600);
    setup.manners.poison = [5].into();
    let mut world = World::new(setup);
    while world.elapsed() < seconds(158) {
        assert!(world.step());
        assert!(world.completed.len() < 5000, "{} are in memory alone", world.completed.len());
    }
    let longest = |world: &World| world.savepoint.cuts.iter().map(|cut| cut.last.0 - cut.first.0).max().unwrap_or(0);
    assert!(longest(&world) > 2000, "{}: nothing of this is tested", longest(&world));
    world.crash(false);
    world.read();
    let mut most = 0;
    while !world.is_done() && world.step() {
        most =
            most.max(world.delivery.batches.values().map(|active| active.batch.records().count()).max().unwrap_or(0));
    }
    assert!(most <= 2000, "{most}");
}
