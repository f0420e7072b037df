//! Targets that refuse everything for a while.

use super::*;

#[test]
fn a_target_that_refuses_everything_for_ten_minutes_loses_nothing() {
    let (mut most, mut lost) = (0, 0);
    every_seed_with(60, &mut (), |seed, ()| {
        let mut random = fastrand::Rng::with_seed(seed);
        let log = (0..240).map(|n| Fake::of(n % 7..n % 7 + 5).at(seconds(5) * n as u32)).collect();
        let mut setup = Setup { learned: learned(), rules: some_rules(&mut random), ..Setup::new(seed, log) };
        let from = ms(random.u64(1..200_000));
        setup.manners.spells = vec![(from, from + seconds(600), Spell::Mad)];
        setup.manners.throttles = random.u64(0..50);
        let mut world = World::new(setup);
        world.run();
        most = most.max(world.requests);
        lost += world.savepoint.ledger.refused;
    });
    println!("PRINT mad for ten minutes: {most} requests at most");
    assert_eq!(lost, 0);
}

#[test]
fn a_batch_that_is_in_pieces_when_the_target_goes_mad_loses_next_to_nothing() {
    let mut lost = 0;
    every_seed_with(40, &mut lost, |seed, lost| {
        let log = (0..64).map(|n| Fake::of(10 * n..10 * n + 10)).collect();
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log) };
        setup.manners.cursed_entries = [(40, 3)].into();
        let from = ms(50 + 25 * seed);
        setup.manners.spells = vec![(from, from + seconds(600), Spell::Mad)];
        let mut world = World::new(setup);
        world.run();
        *lost += world.savepoint.ledger.refused - 1;
    });
    println!("PRINT mad in the middle of a batch: {lost} samples lost in 40 runs");
    assert!(lost <= 40, "one in a run: it takes a second one to be asked about");
}

#[test]
fn an_answer_that_comes_late_does_not_make_refusals_believed() {
    // What was taken before the target went mad is answered when it has refused others already.
    every_seed(40, |seed| {
        let entries = [1, 2, 10][seed as usize % 3];
        let log = (0..400u64).map(|n| Fake::of(10 * n..10 * n + entries)).collect();
        let mut setup = Setup { learned: learned(), rules: rules(8), ..Setup::new(seed, log) };
        setup.rules.max_samples_per_send = entries;
        setup.manners.latency = (5, 1000);
        setup.manners.spells = vec![(seconds(3), seconds(600), Spell::Mad)];
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.savepoint.ledger.refused, 0, "seed {seed}");
    });
}

#[test]
fn an_answer_to_a_question_says_nothing_of_what_is_refused_unexpectedly_after_it() {
    // The first request is refused rightly, and the target asked; before the next ones come it goes mad.
    let log = (0..8u64).map(|n| Fake::of(10 * n..10 * n + 10).at(seconds(n)));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log.collect()) };
    setup.manners.latency = (5, 6);
    setup.manners.cursed_series = (0..10).collect();
    setup.manners.spells = vec![(ms(900), seconds(300), Spell::Mad)];
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 10);
}

#[test]
fn of_a_sender_of_whom_all_is_refused_one_question_is_enough_for_some_time() {
    let log = (0..50u64).map(|n| Fake::of(0..10).from(2).at(seconds(n)));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log.collect()) };
    setup.rules.suspect_after = seconds(3600);
    setup.manners.cursed_sender = Some(2);
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 500);
    assert!(world.empty_requests <= 16, "{}: some for the search, then one in ten seconds", world.empty_requests);
}
