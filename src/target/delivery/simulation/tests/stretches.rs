//! Records that are read some at a time.

use super::*;

/// Reads two records at a stretch.
const BY_TWO: u64 = 1;

#[test]
fn a_batch_is_as_large_read_in_stretches_as_read_at_once() {
    for seed in [0, BY_TWO] {
        let mut world = World::new(Setup::new(seed, (0..40).map(|n| Fake::of([n])).collect()));
        world.run();
        assert_eq!(world.sent_in, [1, 0], "seed {seed}");
    }
}

#[test]
fn what_nothing_is_left_of_is_booked_after_each_stretch_while_there_is_nothing_else() {
    let void = || Fake { filtered: 5, ..Fake::of([]) };
    let log = (0..6).map(|_| void()).chain([Fake::of([1]), void(), void(), Fake::of([2])]).collect();
    let mut world = World::new(Setup { learned: learned(), ..Setup::new(BY_TWO, log) });
    for settled in [2, 4, 6, 6] {
        // (However slowly requests may start.)
        world.now += seconds(1);
        world.step();
        assert_eq!(world.savepoint.settled.position, Position(settled));
    }
    world.run();
    assert_eq!((world.sent_in, world.savepoint.ledger.filtered), ([1, 0], 40), "the rest goes with one request");
}
