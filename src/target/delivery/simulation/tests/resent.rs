//! Refusals of what may have arrived before.

use super::*;

#[test]
fn what_was_not_answered_is_possibly_delivered_even_after_a_target_went_mad() {
    // Stored, not answered; refused by somebody who refuses everything; sent again, and known already.
    let mut setup = Setup::new(1, vec![Fake::of([1, 2, 3])]);
    setup.manners.known = Known::Refused;
    setup.learned = Learned { has_delivered: true, takes_empty: Some(true), ..Learned::default() };
    setup.manners.loses_answers = 1000;
    setup.manners.well_from = Some(ms(110));
    setup.manners.spells = vec![(ms(110), seconds(30), Spell::Mad)];
    let mut world = World::new(setup);
    world.run();
    assert!(world.events.contains(&Event::BeganSuspect));
    assert_eq!((world.refused_for(Reason::Resent), world.refused_for(Reason::Status)), (3, 0));
    assert!(!world.delivery.culprits.has_suspects(), "it is nobody's fault");
}

#[test]
fn what_the_target_has_already_costs_sixteen_requests_and_is_booked_as_resent() {
    let mut setup = Setup { learned: learned(), ..Setup::new(1, (0..100).map(|n| Fake::of([n])).collect()) };
    setup.manners.known = Known::Refused;
    setup.manners.loses_answers = 1000;
    setup.manners.well_from = Some(ms(110));
    setup.rules.max_samples_per_send = 100;
    let mut world = World::new(setup);
    world.run();
    println!("PRINT known already: {} requests", world.requests);
    assert_eq!(world.refused_for(Reason::Resent), 100);
    assert!(world.requests <= 20, "{}", world.requests);
}

#[test]
fn what_was_not_stored_and_has_a_culprit_is_delivered_but_for_it() {
    every_seed(50, |seed| {
        let log = (0..100).map(|n| Fake::of([n])).collect();
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, log) };
        setup.manners.loses = 1000;
        setup.manners.well_from = Some(ms(110));
        setup.manners.cursed_entries = [(seed * 2 + 1, 0)].into();
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.stored(), 99);
    });
}
