//! What each operation does to a small batch, drawn as in the modules.

use super::*;

#[test]
fn a_batch_is_halved_along_records_and_then_along_entries_down_to_one() {
    let fakes = Fakes::of(&["ab", "cd", "abcd", "ef"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    assert_eq!(fakes.drawn(&batch), "[ab|cd] [abcd|ef]");
    accept(&mut batch, &fakes);
    batch.halve(&fakes, true);
    assert_eq!(fakes.drawn(&batch), "[abcd] [ef]");
    assert!(!batch.is_divisible_by_records() && batch.is_divisible(&fakes));
    batch.halve(&fakes, true);
    batch.halve(&fakes, true);
    assert_eq!(fakes.drawn(&batch), "[a] [b] [cd] [ef]");
    assert!(!batch.is_divisible(&fakes));
}

#[test]
fn the_culprit_is_in_the_second_half_only_as_long_as_none_was_found_in_the_first() {
    let fakes = Fakes::of(&["abcd"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    let is_bad = |batch: &Batch| batch.pieces.iter().map(|piece| piece.is_bad_if_left_was_taken).collect::<Vec<_>>();
    assert_eq!(is_bad(&batch), [false, true]);
    batch.halve(&fakes, true);
    assert_eq!((&*fakes.drawn(&batch), is_bad(&batch)), ("[a] [b] [cd]", vec![false, true, false]));
}

#[test]
fn what_cannot_be_looked_into_is_not_divided() {
    let fakes = Fakes::of(&["?ab", "cd"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    assert_eq!(fakes.drawn(&batch), "[?] [cd]");
    assert!(!batch.is_divisible(&fakes));
}

#[test]
fn of_a_piece_that_is_taken_in_part_the_last_samples_count_as_refused() {
    // Of one entry each: 0, 1, 2 samples.
    let fakes = Fakes::of(&["abc", "efg"]);
    let mut batch = fakes.batch();
    batch.book(4, Reason::Partial, &fakes);
    let outcomes: Vec<Outcomes> = batch.take_completed().into_iter().map(|done| done.outcomes).collect();
    let mut first = Outcomes::delivered(2);
    first += Outcomes::refused(Reason::Partial, 1);
    assert_eq!(outcomes, [first, Outcomes::refused(Reason::Partial, 3)]);
    assert!(batch.is_done() && batch.take_completed().is_empty());
}

#[test]
fn all_entries_of_a_series_move_together_when_it_is_set_aside() {
    let fakes = Fakes::of(&["abcadb"]);
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, all_of("c", Role::Culprits));
    assert_eq!(fakes.drawn(&batch), "[abadb] [c]");
    assert_eq!(roles(&batch), [Role::Main, Role::Culprits]);

    let mut batch = fakes.batch();
    batch.set_aside(&fakes, all_of("ab", Role::Culprits));
    assert_eq!(fakes.drawn(&batch), "[cd] [abab]");
}

#[test]
fn what_comes_behind_the_first_entry_that_is_set_aside_does_not_overtake_it() {
    let fakes = Fakes::of(&["abc", "cab", "abc"]);
    let of_the_second = |role| {
        move |record: &Outgoing, of, _| match (record.header.position, of == series('c')) {
            (Position(2), true) => role,
            _ => Role::Main,
        }
    };
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, of_the_second(Role::Culprits));
    assert_eq!(fakes.drawn(&batch), "[abc|ab|ab] [c|c]");

    // Poison is the last of all.
    let mut batch = fakes.batch();
    let culprits = all_of("c", Role::Culprits);
    batch.set_aside(&fakes, |record, of, is_repeat| match of_the_second(Role::Poison)(record, of, is_repeat) {
        Role::Main => culprits(record, of, is_repeat),
        poison => poison,
    });
    assert_eq!(fakes.drawn(&batch), "[ab|ab|ab] [c] [c|c]");
    assert_eq!(roles(&batch), [Role::Main, Role::Culprits, Role::Poison]);
}

#[test]
fn where_one_record_does_not_tell_nothing_is_set_aside() {
    let fakes = Fakes::of(&["abc", "?ab"]);
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, all_of("c", Role::Culprits));
    assert_eq!(fakes.drawn(&batch), "[abc|?]");
}

#[test]
fn what_is_left_of_a_series_that_was_given_up_comes_last_and_in_order() {
    let fakes = Fakes::of(&["abc", "bca", "cab"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, false);
    batch.halve(&fakes, false);
    assert_eq!(fakes.drawn(&batch), "[a] [bc] [bca|cab]");
    refuse(&mut batch, &fakes);
    batch.set_poison_aside(&[series('b')].into(), &fakes);
    assert_eq!(fakes.drawn(&batch), "[c] [ca|ca] [b|b|b]");
    assert_eq!(roles(&batch), [Role::Main, Role::Main, Role::Poison]);
    // The next one joins it.
    batch.set_poison_aside(&[series('a')].into(), &fakes);
    assert_eq!(fakes.drawn(&batch), "[c] [c|c] [b|ba|ab]");
    // And where nothing else is left, that is all.
    batch.set_poison_aside(&[series('c')].into(), &fakes);
    assert_eq!(fakes.drawn(&batch), "[bc|bca|cab]");
}

#[test]
fn the_front_goes_to_the_back_unless_it_shares_a_series() {
    let fakes = Fakes::of(&["ab", "cd", "ae"]);
    let mut batch = fakes.batch();
    assert!(!batch.front_to_back(&fakes), "it is alone");
    batch.halve(&fakes, false);
    assert!(!batch.front_to_back(&fakes), "a is in both");
    accept(&mut batch, &fakes);
    batch.halve(&fakes, false);
    assert!(batch.front_to_back(&fakes));
    assert_eq!(fakes.drawn(&batch), "[ae] [cd]");
}

#[test]
fn nothing_goes_behind_what_does_not_tell_nor_does_that_go_behind_anything() {
    for texts in [["ab", "?a"], ["?a", "ab"]] {
        let fakes = Fakes::of(&texts);
        let mut batch = fakes.batch();
        batch.halve(&fakes, false);
        let before = fakes.drawn(&batch);
        assert!(!batch.front_to_back(&fakes), "{before}");
        assert_eq!(fakes.drawn(&batch), before);
    }
}

#[test]
fn what_was_given_up_is_not_put_behind_what_does_not_tell() {
    let fakes = Fakes::of(&["ab", "?b", "bc", "b"]);
    let mut batch = fakes.batch();
    batch.set_poison_aside(&[series('b')].into(), &fakes);
    assert_eq!(fakes.drawn(&batch), "[ab|?|bc|b]");
    batch.halve(&fakes, false);
    accept(&mut batch, &fakes);
    batch.set_poison_aside(&[series('b')].into(), &fakes);
    assert_eq!(fakes.drawn(&batch), "[c] [b|b]");
}

#[test]
fn an_entry_is_singled_out_and_put_back() {
    let fakes = Fakes::of(&["abcd", "ef"]);
    let mut batch = fakes.batch();
    assert!(batch.single_out(&fakes, |_| 2));
    assert_eq!(fakes.drawn(&batch), "[c] [abd|ef]");
    batch.undo_single_out();
    assert_eq!(fakes.drawn(&batch), "[abcd|ef]");
    assert!(batch.is_untouched());
    // What was taken stays taken.
    assert!(batch.single_out(&fakes, |_| 4));
    assert_eq!(fakes.drawn(&batch), "[e] [abcd|f]");
    accept(&mut batch, &fakes);
    batch.undo_single_out();
    assert_eq!(fakes.drawn(&batch), "[abcd|f]");
}

#[test]
fn only_the_first_entry_of_a_series_is_singled_out() {
    let fakes = Fakes::of(&["aba", "cc"]);
    let mut batch = fakes.batch();
    let mut choices = 0;
    assert!(batch.single_out(&fakes, |n| {
        choices = n;
        n
    }));
    assert_eq!((&*fakes.drawn(&batch), choices), ("[c] [aba|c]", 3));
    accept(&mut batch, &fakes);
    assert!(batch.single_out(&fakes, |_| 1));
    assert_eq!(fakes.drawn(&batch), "[b] [aa|c]");
    for alone in ["a", "aaa"] {
        let fakes = Fakes::of(&[alone]);
        assert!(!fakes.batch().single_out(&fakes, |_| 0), "what there is of others would say something, not this");
    }
}

#[test]
fn nothing_is_singled_out_beside_what_does_not_tell() {
    let fakes = Fakes::of(&["?a", "ab"]);
    let mut batch = fakes.batch();
    assert!(!batch.single_out(&fakes, |_| 0));
    assert_eq!(fakes.drawn(&batch), "[?|ab]");
}

#[test]
fn of_a_duplicate_what_comes_again_goes_aside_alone_but_nothing_overtakes_it() {
    let again = |_: &Outgoing, _, is_repeat| if is_repeat { Role::Culprits } else { Role::Main };
    let fakes = Fakes::of(&["abbc"]);
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, again);
    assert_eq!(fakes.drawn(&batch), "[abc] [b]");

    let fakes = Fakes::of(&["abbc", "abbc"]);
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, again);
    assert_eq!(fakes.drawn(&batch), "[abc|ac] [b|bb]");
}

#[test]
fn the_series_that_comes_last_in_a_record_is_the_witness() {
    let fakes = Fakes::of(&["abcb", "bd"]);
    let mut batch = fakes.batch();
    assert!(!batch.call_witness(&fakes, false), "of one record only");
    batch.peel();
    assert_eq!(fakes.drawn(&batch), "[abcb] [bd]");
    assert!(batch.call_witness(&fakes, false));
    // The last b has no sample.
    assert_eq!(fakes.drawn(&batch), "[c] [abb] [bd]");
    let witnesses = |batch: &Batch| batch.pieces.iter().map(|piece| piece.witness).collect::<Vec<_>>();
    assert_eq!(witnesses(&batch), [Witness::Is, Witness::WentBefore, Witness::None]);
    // Neither it nor those that it went before have another one; the next record has.
    assert!(!batch.call_witness(&fakes, false));
    accept(&mut batch, &fakes);
    assert!(!batch.call_witness(&fakes, false));
    assert_eq!(fakes.drawn(&batch), "[abb] [bd]");
    accept(&mut batch, &fakes);
    assert!(batch.call_witness(&fakes, true));
    assert_eq!(fakes.drawn(&batch), "[d] [b]");
    accept(&mut batch, &fakes);
    assert!(batch.front().is_some_and(|piece| piece.is_bad_if_left_was_taken));
}

#[test]
fn a_witness_that_was_not_sent_went_before_nobody() {
    let fakes = Fakes::of(&["abcb"]);
    let mut batch = fakes.batch();
    assert!(batch.call_witness(&fakes, false));
    batch.witness_was_not_sent();
    accept(&mut batch, &fakes);
    assert_eq!((fakes.drawn(&batch), batch.pieces[0].witness), ("[abb]".to_owned(), Witness::None));
    assert!(batch.call_witness(&fakes, false), "another one is called");
}

#[test]
fn where_nothing_has_a_sample_there_is_no_witness() {
    let fakes = Fakes::of(&["a"]);
    let mut batch = fakes.batch();
    assert!(!batch.call_witness(&fakes, false));
    assert_eq!(batch.pieces[0].witness, Witness::None);
}

#[test]
fn where_all_is_one_series_it_is_its_own_witness() {
    let fakes = Fakes::of(&["bbb"]);
    let mut batch = fakes.batch();
    assert!(!batch.call_witness(&fakes, true));
    assert_eq!((fakes.drawn(&batch), batch.pieces[0].witness), ("[bbb]".to_owned(), Witness::Is));
}

#[test]
fn no_witness_is_called_of_what_may_have_arrived() {
    let fakes = Fakes::of(&["abcb"]);
    let mut batch = Batch::new(fakes.records(), true);
    batch.peel();
    assert!(!batch.call_witness(&fakes, false));
    assert_eq!(fakes.drawn(&batch), "[abcb]");
}

#[test]
fn a_batch_that_starts_over_is_whole_and_knows_of_no_refusal() {
    let fakes = Fakes::of(&["abc", "abc"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    refuse(&mut batch, &fakes);
    assert_eq!(fakes.drawn(&batch), "[abc]");
    batch.start_over(true);
    assert_eq!(fakes.drawn(&batch), "[abc|abc]");
    assert!(batch.front().unwrap().is_possibly_delivered);
    accept(&mut batch, &fakes);
    let outcomes: Vec<Outcomes> = batch.take_completed().into_iter().map(|done| done.outcomes).collect();
    assert_eq!(outcomes, [Outcomes::delivered(3); 2]);
}

#[test]
fn a_batch_that_starts_over_stays_whole_when_nothing_is_singled_out_any_more() {
    let fakes = Fakes::of(&["abc", "def"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    refuse(&mut batch, &fakes);
    assert!(batch.single_out(&fakes, |_| 1));
    assert_eq!(fakes.drawn(&batch), "[e] [df]");
    batch.start_over(false);
    batch.undo_single_out();
    assert_eq!(fakes.drawn(&batch), "[abc|def]");
}

#[test]
#[should_panic(expected = "what is final is not sent again")]
fn a_batch_of_which_something_is_final_does_not_start_over() {
    let fakes = Fakes::of(&["ab", "cd"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    accept(&mut batch, &fakes);
    batch.start_over(false);
}

#[test]
fn the_front_and_what_else_there_is_of_its_records_is_a_cut_of_its_own() {
    let fakes = Fakes::of(&["ab", "cd", "ef"]);
    let mut batch = fakes.batch();
    assert_eq!(batch.cuts(), [(Position(1), Position(3), false)]);
    batch.halve(&fakes, false);
    batch.front_mut().unwrap().is_possibly_delivered = true;
    assert_eq!(batch.cuts(), [(Position(1), Position(1), true), (Position(2), Position(3), false)]);
    // Further pieces of its records go with it; what is behind them was not sent.
    batch.halve(&fakes, false);
    assert_eq!(batch.cuts(), [(Position(1), Position(1), true), (Position(2), Position(3), false)]);
    accept(&mut batch, &fakes);
    assert_eq!(batch.cuts(), [(Position(1), Position(1), true), (Position(2), Position(3), false)]);
}

#[test]
fn what_is_dropped_is_neither_sent_nor_told_and_what_was_proved_with_it_is_not() {
    let fakes = Fakes::of(&["ab", "cd", "ef", "gh"]);
    let mut batch = fakes.batch();
    batch.halve(&fakes, true);
    batch.pieces[1].is_known_bad = true;
    batch.drop_up_to(Position(1));
    assert_eq!(fakes.drawn(&batch), "[cd] [ef|gh]");
    let unsure: Vec<bool> = batch.pieces.iter().map(|piece| piece.is_possibly_delivered).collect();
    assert_eq!(unsure, [true, false], "the first may have been on its way");
    assert!(batch.pieces.iter().all(|piece| !piece.is_known_bad && !piece.is_bad_if_left_was_taken));
    batch.drop_up_to(Position(3));
    assert_eq!((&*fakes.drawn(&batch), batch.open()), ("[gh]", Some((Position(4), Position(4)))));
    assert!(batch.take_completed().is_empty());
}

#[test]
fn records_of_which_a_part_was_taken_are_told_and_cut_together() {
    let fakes = Fakes::of(&["ab", "ac", "ad", "ce"]);
    let mut batch = fakes.batch();
    batch.set_aside(&fakes, all_of("ce", Role::Culprits));
    assert_eq!(fakes.drawn(&batch), "[ab|a|ad] [c|ce]");
    batch.has_settled = true;
    batch.book(1, Reason::Partial, &fakes);
    batch.halve(&fakes, false);
    assert_eq!(fakes.drawn(&batch), "[c] [ce]");
    assert!(batch.take_completed().is_empty(), "the second is not known");
    assert_eq!(batch.cuts(), [(Position(1), Position(4), true)]);
    refuse(&mut batch, &fakes);
    assert_eq!(batch.take_completed().len(), 3);
}
