//! Requests built anew from entries of stored ones: several merged into one, one cut into pieces, what is left without the culprits.
//!
//! ```text
//!  1.0   [series series metadata] + [series ------]   -->  [series series metadata series]              bytes as they were
//!                                      chosen: 0
//!
//!  2.0   symbols "" a b c   series a=b           \          symbols "" a b d     each once, in order of first use
//!        symbols "" b a d   series a=b, series a=d  -->     series a=b, series a=b, series a=d           references are new
//! ```
//!
//! Samples, histograms, timestamps and fields that nobody knows yet are copied byte for byte in both protocols: a float is never a
//! number here. In 2.0 only references change (of labels, of exemplars' labels, of help and unit), and symbols without a use are left
//! out (`V2-68`). Each entry keeps all its labels (`V1-19`, `V2-72`), in pairs (`V2-62`), and no reference leads nowhere (`V2-70`).
//!
//! Exemplars in 2.0 entries of their own are put into an entry of their series that has a sample or histogram, if there is one: see
//! [`exemplars`]. All else is there, in the order in which it was chosen; what belongs to no entry as a [`Selection`] says.

use prost::encoding::encode_varint;

use super::Protocol;
use super::entries::{REFERENCE_OUT_OF_RANGE, symbols_2};
use super::exemplars::{self, Attached, Hostless, Lone};
use super::renumber::{EntryBuffer, Renumbered, Symbols};
use super::selection::{Chosen, Selection, each_chosen};
use super::symbols::SymbolTable;
use super::wire::{Malformed, each_varint};

/// A request that was built anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Not compressed.
    pub message: Vec<u8>,
    /// Nothing is in it; in 2.0, nothing but a table.
    pub is_empty: bool,
    /// Exemplars in entries of their own, without a sample of their series beside them (2.0), are in it.
    pub has_lone_exemplars: bool,
    /// Such ones that were left out of it.
    pub exemplars_left_out: u64,
}

/// One request with the chosen entries of all `selections`, in their order.
///
/// # Errors
/// A message is no request of this protocol, a reference (2.0) is out of range, or a chosen entry does not exist. The offset is
/// one in that selection's message.
pub fn rebuild(protocol: Protocol, selections: &[Selection<'_>], hostless: Hostless) -> Result<Rebuilt, Malformed> {
    match protocol {
        Protocol::V1 => {
            let message = rebuild_1(selections)?;
            Ok(Rebuilt { is_empty: message.is_empty(), message, has_lone_exemplars: false, exemplars_left_out: 0 })
        }
        Protocol::V2 => rebuild_2(selections, hostless),
    }
}

fn rebuild_1(selections: &[Selection<'_>]) -> Result<Vec<u8>, Malformed> {
    let whole = |selection: &Selection<'_>| if selection.entries == Chosen::All { selection.message.len() } else { 0 };
    let mut rebuilt = Vec::with_capacity(selections.iter().map(whole).sum());
    for selection in selections {
        each_chosen(selection, 1, |field, _| {
            rebuilt.extend_from_slice(field.bytes);
            Ok(())
        })?;
    }
    Ok(rebuilt)
}

fn rebuild_2(selections: &[Selection<'_>], hostless: Hostless) -> Result<Rebuilt, Malformed> {
    let mut table = SymbolTable::new();
    let mut rebuilt = Vec::new();
    let mut entry = EntryBuffer::default();
    let mut lone = Vec::new();
    for (number, selection) in selections.iter().enumerate() {
        let mut symbols = Symbols::of(selection.message, &mut table)?;
        each_chosen(selection, 5, |field, series| {
            match series {
                Some(series) => match exemplars::lone_in_2(series)? {
                    0 => entry.renumber_series(series, None, &mut symbols, &mut rebuilt)?,
                    exemplars => lone.push(Lone { at: rebuilt.len(), selection: number, series, exemplars }),
                },
                // The old table.
                None if field.number == 4 => {}
                None => rebuilt.extend_from_slice(field.bytes),
            }
            Ok(())
        })?;
    }
    let mut source = LoneSource { selections, selection: None, symbols: Vec::new(), entry };
    let Attached { written, kept, left_out } = exemplars::attach(rebuilt, &lone, hostless, &mut table, &mut source)?;
    Ok(Rebuilt {
        message: table.followed_by(&written),
        is_empty: written.is_empty(),
        has_lone_exemplars: kept > 0,
        exemplars_left_out: left_out,
    })
}

/// Where entries of exemplars are read when all others are written.
struct LoneSource<'s, 'a> {
    selections: &'s [Selection<'a>],
    /// Whose symbols these are.
    selection: Option<usize>,
    symbols: Renumbered<'a>,
    entry: EntryBuffer,
}

impl LoneSource<'_, '_> {
    /// Makes the symbols those of the selection at hand: entries of one come one after the other, nearly always.
    fn turn_to(&mut self, selection: usize) -> Result<(), Malformed> {
        if self.selection != Some(selection) {
            self.symbols = symbols_2(self.selections[selection].message, |symbol| (symbol, None))?;
            self.selection = Some(selection);
        }
        Ok(())
    }

    /// Writes something of an entry, with the symbols of its selection.
    fn renumber(
        &mut self,
        lone: &Lone<'_>,
        table: &mut SymbolTable,
        write: impl FnOnce(&mut EntryBuffer, &mut Symbols<'_, '_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.turn_to(lone.selection)?;
        let mut symbols = Symbols { from: std::mem::take(&mut self.symbols), table };
        write(&mut self.entry, &mut symbols)?;
        self.symbols = symbols.from;
        Ok(())
    }
}

impl exemplars::Source for LoneSource<'_, '_> {
    fn references(&mut self, lone: &Lone<'_>, table: &SymbolTable, packed: &mut Vec<u8>) -> Result<bool, Malformed> {
        self.turn_to(lone.selection)?;
        let symbols = &mut self.symbols;
        let mut are_all_there = true;
        let mut is_in_range = true;
        let mut series = lone.series;
        while let Some((number, value)) = series.next_field()? {
            if number != 1 {
                continue;
            }
            each_varint(&series, value, |reference| match symbols.get_mut(reference as u32 as usize) {
                None => is_in_range = false,
                Some((text, place)) => {
                    if place.is_none() {
                        *place = table.find(text);
                    }
                    match place {
                        Some(place) => encode_varint(u64::from(*place), packed),
                        None => are_all_there = false,
                    }
                }
            })?;
        }
        if !is_in_range {
            return Err(Malformed { offset: lone.series.offset(), what: REFERENCE_OUT_OF_RANGE });
        }
        Ok(are_all_there)
    }

    fn exemplars(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed> {
        self.renumber(lone, table, |entry, symbols| entry.renumber_exemplars(lone.series, symbols, to))
    }

    fn entry(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed> {
        self.renumber(lone, table, |entry, symbols| entry.renumber_series(lone.series, None, symbols, to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::arbitrary;
    use super::super::messages::{v1 as pb1, v2 as pb2};
    use super::super::plain::{self, attached, has_a_proper_table};
    use super::super::text::STALE;
    use super::*;

    fn message(protocol: Protocol, selections: &[Selection<'_>]) -> Vec<u8> {
        rebuild(protocol, selections, Hostless::LeftOut).unwrap().message
    }

    fn piece_of(protocol: Protocol, message: &[u8], entries: Chosen<'_>) -> Rebuilt {
        rebuild(protocol, &[Selection { message, entries }], Hostless::LeftOut).unwrap()
    }

    fn all(message: &[u8]) -> Selection<'_> {
        Selection { message, entries: Chosen::All }
    }

    fn series1(name: &str) -> pb1::TimeSeries {
        let label = pb1::Label { name: "__name__".into(), value: name.into() };
        let samples = vec![pb1::Sample { value: f64::from_bits(STALE), timestamp: 5 }];
        pb1::TimeSeries { labels: vec![label], samples, ..Default::default() }
    }

    fn request1() -> Vec<u8> {
        let metadata = vec![pb1::MetricMetadata { help: "help".into(), ..Default::default() }];
        pb1::WriteRequest { timeseries: ["a", "b", "c"].map(series1).into(), metadata }.encode_to_vec()
    }

    fn names(message: &[u8]) -> (Vec<String>, usize) {
        let message = pb1::WriteRequest::decode(message).unwrap();
        (message.timeseries.iter().map(|series| series.labels[0].value.clone()).collect(), message.metadata.len())
    }

    fn names_of(message: &[u8], entries: Chosen<'_>) -> (String, usize) {
        let (names, metadata) = names(&piece_of(Protocol::V1, message, entries).message);
        (names.concat(), metadata)
    }

    #[test]
    fn what_belongs_to_no_entry_goes_with_all_and_with_entry_0() {
        let message = request1();
        assert_eq!(names_of(&message, Chosen::All), ("abc".into(), 1));
        assert_eq!(names_of(&message, Chosen::Range(0..1)), ("a".into(), 1));
        assert_eq!(names_of(&message, Chosen::Range(1..3)), ("bc".into(), 0));
        assert_eq!(names_of(&message, Chosen::Range(0..0)), (String::new(), 0));
        assert_eq!(names_of(&message, Chosen::Listed(&[0, 2])), ("ac".into(), 1));
        assert_eq!(names_of(&message, Chosen::Listed(&[1])), ("b".into(), 0));
        assert_eq!(names_of(&message, Chosen::Listed(&[])), (String::new(), 0));
    }

    #[test]
    fn entries_that_are_not_there_are_an_error_and_not_left_out() {
        for (protocol, message) in [
            (Protocol::V1, request1()),
            (Protocol::V2, arbitrary::as_2(&pb1::WriteRequest::decode(&*request1()).unwrap()).encode_to_vec()),
        ] {
            for entries in [
                Chosen::Range(2..4),
                Chosen::Range(3..4),
                Chosen::Listed(&[3]),
                Chosen::Listed(&[1, 0]),
                Chosen::Listed(&[1, 1]),
            ] {
                let selection = Selection { message: &message, entries };
                assert!(
                    rebuild(protocol, std::slice::from_ref(&selection), Hostless::LeftOut).is_err(),
                    "{selection:?}"
                );
            }
            let none = Selection { message: &message, entries: Chosen::Range(7..7) };
            assert!(rebuild(protocol, &[none], Hostless::LeftOut).is_ok());
        }
    }

    #[test]
    fn one_cut_message_fails_the_whole_before_its_bytes_mix_with_the_next() {
        let message = request1();
        assert!(
            rebuild(Protocol::V1, &[all(&message[..message.len() - 1]), all(&message)], Hostless::LeftOut).is_err()
        );
    }

    #[test]
    fn the_table_holds_each_symbol_in_use_once_in_order_of_use() {
        let request = |symbols: &[&str], labels_refs: &[u32], help_ref| {
            let symbols = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
            let metadata = Some(pb2::Metadata { help_ref, ..Default::default() });
            let exemplars = vec![pb2::Exemplar { labels_refs: labels_refs[..2].to_vec(), ..Default::default() }];
            let samples = vec![pb2::Sample::default()];
            let labels_refs = labels_refs.to_vec();
            let series = pb2::TimeSeries { labels_refs, samples, metadata, exemplars, ..Default::default() };
            pb2::Request { symbols, timeseries: vec![series] }.encode_to_vec()
        };
        let first = request(&["", "unused", "x", "job", "a", "__name__", "a"], &[5, 4, 3, 2], 0);
        let second = request(&["", "job", "help", "__name__", "b"], &[3, 4, 1, 4], 2);
        let rebuilt = message(Protocol::V2, &[all(&first), all(&second)]);
        let rebuilt = pb2::Request::decode(&*rebuilt).unwrap();
        assert_eq!(rebuilt.symbols, ["", "__name__", "a", "job", "x", "b", "help"], "V2-68");
        assert_eq!(rebuilt.timeseries[0].labels_refs, [1, 2, 3, 4]);
        assert_eq!(rebuilt.timeseries[1].labels_refs, [1, 5, 3, 5]);
        assert_eq!(rebuilt.timeseries[1].exemplars[0].labels_refs, [1, 5]);
        assert_eq!(rebuilt.timeseries[1].metadata.unwrap().help_ref, 6);
        let empty = pb2::Request::decode(&*message(Protocol::V2, &[])).unwrap();
        assert_eq!((empty.symbols, empty.timeseries), (vec![String::new()], vec![]));
    }

    #[test]
    fn fields_that_nobody_knows_and_references_in_any_form_come_through() {
        // Symbols "", a, b, then an unknown field 9 of the request.
        let table = [0x22, 0, 0x22, 1, b'a', 0x22, 1, b'b', 0x48, 1];
        let series = [
            &[0x08, 2][..],                                    // one reference
            &[0x12, 4, 0x10, 5, 0x78, 1],                      // a sample with a field 15
            &[0x0a, 1, 1],                                     // one packed reference
            &[0x9b, 0x01, 0x08, 1, 0x9c, 0x01],                // field 19, a group
            &[0x22, 9, 0x08, 2, 0x18, 7, 0x0a, 1, 1, 0x70, 1], // an exemplar with both, and a field 14
            &[0x2a, 4, 0x20, 1, 0x70, 3],                      // metadata with a unit and a field 14
        ]
        .concat();
        let message = [&table[..], &[0x2a, series.len() as u8], &series].concat();
        let expected = [
            &[0x0a, 2, 1, 2][..],
            &[0x12, 4, 0x10, 5, 0x78, 1],
            &[0x9b, 0x01, 0x08, 1, 0x9c, 0x01],
            &[0x22, 8, 0x0a, 2, 1, 2, 0x18, 7, 0x70, 1],
            &[0x2a, 4, 0x20, 2, 0x70, 3],
        ]
        .concat();
        let expected =
            [&[0x22, 0, 0x22, 1, b'b', 0x22, 1, b'a', 0x48, 1, 0x2a, expected.len() as u8][..], &expected].concat();
        assert_eq!(rebuild(Protocol::V2, &[all(&message)], Hostless::LeftOut).unwrap().message, expected);
        let first = Selection { message: &message, entries: Chosen::Range(0..1) };
        assert_eq!(
            rebuild(Protocol::V2, &[first], Hostless::LeftOut).unwrap().message,
            expected,
            "entry 0 takes the rest along"
        );
        let none = Selection { message: &message, entries: Chosen::Listed(&[]) };
        assert_eq!(rebuild(Protocol::V2, &[none], Hostless::LeftOut).unwrap().message, [0x22, 0]);
    }

    /// One 2.0 request: `a@5` is a sample, `a~5` an exemplar on its own, `a@5~6` both.
    fn request2(entries: &str) -> Vec<u8> {
        let mut symbols = vec![String::new(), "__name__".into(), "trace_id".into()];
        let mut timeseries = Vec::new();
        for entry in entries.split(' ').filter(|entry| !entry.is_empty()) {
            let (name, at) = entry.split_at(1);
            let mut series = pb2::TimeSeries { labels_refs: vec![1, symbols.len() as u32], ..Default::default() };
            symbols.push(name.into());
            for time in at.split_inclusive(|c: char| c.is_ascii_digit()) {
                let timestamp = time[1..].parse().unwrap();
                match &time[..1] {
                    "@" => series.samples.push(pb2::Sample { timestamp, ..Default::default() }),
                    _ => {
                        series.exemplars.push(pb2::Exemplar {
                            labels_refs: vec![2, symbols.len() as u32],
                            value: 1.0,
                            timestamp,
                        });
                        symbols.push(format!("trace {time}"));
                    }
                }
            }
            timeseries.push(series);
        }
        pb2::Request { symbols, timeseries }.encode_to_vec()
    }

    /// In the same way, and how many exemplars were left out.
    fn rebuilt2(requests: &[&str]) -> (String, u64) {
        rebuilt2_with(Hostless::LeftOut, requests)
    }

    fn rebuilt2_with(hostless: Hostless, requests: &[&str]) -> (String, u64) {
        let messages: Vec<Vec<u8>> = requests.iter().map(|entries| request2(entries)).collect();
        let selections: Vec<Selection<'_>> = messages.iter().map(|message| all(message)).collect();
        let rebuilt = rebuild(Protocol::V2, &selections, hostless).unwrap();
        let Rebuilt { message, is_empty, has_lone_exemplars, exemplars_left_out } = rebuilt;
        let series = plain::of_2(&message).unwrap();
        assert_eq!(has_lone_exemplars, series.iter().any(plain::Series::is_lone));
        let shown = |series: plain::Series| {
            let mut shown = series.metric_name().to_owned();
            series.samples.iter().for_each(|(_, timestamp, _)| shown += &format!("@{timestamp}"));
            series.exemplars.iter().for_each(|(timestamp, _, labels)| {
                assert!(labels[1].ends_with(&timestamp.to_string()));
                shown += &format!("~{timestamp}");
            });
            shown
        };
        assert!(has_a_proper_table(&pb2::Request::decode(&*message).unwrap()));
        let shown: Vec<String> = series.into_iter().map(shown).collect();
        assert_eq!(is_empty, shown.is_empty());
        (shown.join(" "), exemplars_left_out)
    }

    #[test]
    fn exemplars_on_their_own_go_to_the_nearest_earlier_sample_of_their_series_or_else_the_next_later_one() {
        let cases = [
            ("a@1 b@1 a~2", "a@1~2 b@1", 0),
            ("a~2 b@1 a@1", "b@1 a@1~2", 0),
            ("a@1 a~2 a@3", "a@1~2 a@3", 0),
            ("a@1 a@3 a~2", "a@1 a@3~2", 0),
            ("a~1 a@1 a~2 a@2 a~3", "a@1~1~2 a@2~3", 0),
            ("c~1 a@1 c~2 c~3", "a@1", 3),
            ("a~1", "", 1),
        ];
        for (entries, expected, left_out) in cases {
            assert_eq!(rebuilt2(&[entries]), (expected.into(), left_out), "V2-63, {entries}");
        }
    }

    #[test]
    fn exemplars_without_a_sample_of_their_series_stay_in_their_place_where_they_may() {
        let cases = [
            ("a@1 b@1 a~2", "a@1~2 b@1"),
            ("c~1 a@1 c~2 c~3 a~4", "c~1 a@1~4 c~2 c~3"),
            ("a@1 c~2 b@1 b~2", "a@1 c~2 b@1~2"),
            ("a~1", "a~1"),
        ];
        for (entries, expected) in cases {
            assert_eq!(rebuilt2_with(Hostless::Kept, &[entries]), (expected.into(), 0), "{entries}");
        }
        assert_eq!(rebuilt2_with(Hostless::Kept, &["d@1 a~1", "x@1 c~7", "a@2"]), ("d@1 x@1 c~7 a@2~1".into(), 0));
    }

    #[test]
    fn exemplars_on_their_own_find_their_series_in_other_records_of_the_same_request() {
        assert_eq!(rebuilt2(&["b@1 a~1", "x@1 a@2 a~9"]), ("b@1 x@1 a@2~1~9".into(), 0));
        assert_eq!(rebuilt2(&["a@1", "", "b~1 a~1", "b@2"]), ("a@1~1 b@2~1".into(), 0));
    }

    #[test]
    fn exemplars_of_one_entry_are_in_order_of_time_when_others_come_to_them() {
        assert_eq!(rebuilt2(&["a~7 a@1~5 a~3 a~6"]), ("a@1~3~5~6~7".into(), 0));
        assert_eq!(rebuilt2(&["a@1~5~2"]), ("a@1~5~2".into(), 0), "what nobody touches stays as it was");
    }

    #[test]
    fn references_to_nothing_are_malformed() {
        let rebuilt = |series| {
            let request = pb2::Request { symbols: vec![String::new(), "a".into()], timeseries: vec![series] };
            rebuild(Protocol::V2, &[all(&request.encode_to_vec())], Hostless::LeftOut)
                .map(drop)
                .map_err(|error| error.what)
        };
        let samples = vec![pb2::Sample::default()];
        let series = || pb2::TimeSeries { labels_refs: vec![1, 1], samples: samples.clone(), ..Default::default() };
        let out_of_range = Err(REFERENCE_OUT_OF_RANGE);
        assert_eq!(rebuilt(series()), Ok(()));
        assert_eq!(rebuilt(pb2::TimeSeries { labels_refs: vec![1, 2], ..series() }), out_of_range);
        let exemplar = pb2::Exemplar { labels_refs: vec![u32::MAX, 1], ..Default::default() };
        assert_eq!(rebuilt(pb2::TimeSeries { exemplars: vec![exemplar], ..series() }), out_of_range);
        let metadata = pb2::Metadata { unit_ref: 2, ..Default::default() };
        assert_eq!(rebuilt(pb2::TimeSeries { metadata: Some(metadata), ..series() }), out_of_range);
    }

    proptest! {
        #[test]
        fn all_of_several_1_0_messages_is_their_concatenation(requests in prop::collection::vec(arbitrary::request1(), 0..5)) {
            let messages: Vec<Vec<u8>> = requests.iter().map(Message::encode_to_vec).collect();
            let selections: Vec<Selection<'_>> = messages.iter().map(|message| all(message)).collect();
            prop_assert_eq!(message(Protocol::V1, &selections), messages.concat());
        }

        #[test]
        fn all_of_several_2_0_messages_are_the_same_series_with_one_table(requests in prop::collection::vec(arbitrary::request2(), 0..5)) {
            let messages: Vec<Vec<u8>> = requests.iter().map(Message::encode_to_vec).collect();
            let selections: Vec<Selection<'_>> = messages.iter().map(|message| all(message)).collect();
            let series: Vec<plain::Series> = messages.iter().flat_map(|message| plain::of_2(message).unwrap()).collect();
            for hostless in [Hostless::Kept, Hostless::LeftOut] {
                let Rebuilt { message, exemplars_left_out, .. } = rebuild(Protocol::V2, &selections, hostless).unwrap();
                let table = pb2::Request::decode(&*message).unwrap();
                prop_assert!(has_a_proper_table(&table), "{:?}", table.symbols);
                let expected = attached(series.clone(), hostless);
                prop_assert_eq!((plain::of_2(&message).unwrap(), exemplars_left_out), expected);
            }
        }

        /// V1-19, V2-72. By ranges, and by the bits of a number: the pieces have each entry once, in order, and what belongs to none of them once.
        #[test]
        fn pieces_of_a_message_have_everything_once(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            cuts in prop::collection::vec(0..7u32, 0..3),
            choice: u32,
        ) {
            let as_ranges = |count: u32| {
                let mut cuts: Vec<u32> = cuts.iter().map(|cut| cut % (count + 1)).chain([0, count]).collect();
                cuts.sort_unstable();
                cuts.windows(2).map(|pair| pair[0]..pair[1]).collect::<Vec<_>>()
            };
            let as_lists = |count: u32| [0, 1].map(|bit| (0..count).filter(|n| choice >> n & 1 == bit).collect::<Vec<u32>>());

            let message = one.encode_to_vec();
            let count = one.timeseries.len() as u32;
            let piece = |entries: Chosen<'_>| pb1::WriteRequest::decode(&*piece_of(Protocol::V1, &message, entries).message).unwrap();
            let bytes = |series: &[pb1::TimeSeries]| series.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
            let pieces: Vec<_> = as_ranges(count).into_iter().map(|range| piece(Chosen::Range(range))).collect();
            prop_assert_eq!(pieces.iter().flat_map(|piece| bytes(&piece.timeseries)).collect::<Vec<_>>(), bytes(&one.timeseries));
            if count > 0 {
                prop_assert_eq!(pieces.into_iter().flat_map(|piece| piece.metadata).collect::<Vec<_>>(), one.metadata.clone());
            }
            let mut metadata = Vec::new();
            for list in as_lists(count) {
                let piece = piece(Chosen::Listed(&list));
                let expected: Vec<_> = list.iter().map(|n| one.timeseries[*n as usize].encode_to_vec()).collect();
                prop_assert_eq!(bytes(&piece.timeseries), expected);
                metadata.extend(piece.metadata);
            }
            if count > 0 {
                prop_assert_eq!(metadata, one.metadata);
            }

            let message = two.encode_to_vec();
            let count = two.timeseries.len() as u32;
            // Exemplars on their own go where there is a sample of their series, piece by piece.
            let piece = |entries: Chosen<'_>| {
                let Rebuilt { message, exemplars_left_out, .. } = piece_of(Protocol::V2, &message, entries);
                assert!(has_a_proper_table(&pb2::Request::decode(&*message).unwrap()));
                (plain::of_2(&message).unwrap(), exemplars_left_out)
            };
            let expected = plain::of_2(&message).unwrap();
            for range in as_ranges(count) {
                let chosen = expected[range.start as usize..range.end as usize].to_vec();
                prop_assert_eq!(piece(Chosen::Range(range)), attached(chosen, Hostless::LeftOut));
            }
            for list in as_lists(count) {
                let chosen = list.iter().map(|n| expected[*n as usize].clone()).collect();
                prop_assert_eq!(piece(Chosen::Listed(&list)), attached(chosen, Hostless::LeftOut));
            }
        }

        /// Whatever the bytes: no panic, and of what prost reads nothing is changed.
        #[test]
        fn damaged_requests_are_malformed_or_come_through(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            damage in arbitrary::damage(),
        ) {
            let mut message = one.encode_to_vec();
            damage.strike(&mut message);
            match (rebuild(Protocol::V1, &[all(&message)], Hostless::LeftOut), pb1::WriteRequest::decode(&*message)) {
                (Ok(rebuilt), _) => prop_assert_eq!(rebuilt.message, message),
                (Err(error), judged) => prop_assert!(judged.is_err(), "{error}"),
            }
            let mut message = two.encode_to_vec();
            damage.strike(&mut message);
            let rebuilt = rebuild(Protocol::V2, &[all(&message)], Hostless::LeftOut);
            let Ok(judged) = pb2::Request::decode(&*message) else { return Ok(()) };
            match rebuilt {
                Err(error) => prop_assert_eq!(error.what, REFERENCE_OUT_OF_RANGE),
                // A first symbol that is not empty is against the specification, and what 0 means then is anybody's guess.
                Ok(_) if judged.symbols.first().is_some_and(|symbol| !symbol.is_empty()) => {}
                Ok(rebuilt) => {
                    let after = plain::of_2(&rebuilt.message);
                    prop_assert!(after.is_some());
                    // A reference of an exemplar that was left out may well be out of range.
                    if let Some(before) = plain::of_2(&message) {
                        prop_assert_eq!((after.unwrap(), rebuilt.exemplars_left_out), attached(before, Hostless::LeftOut));
                    }
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), end: u8) {
            for protocol in [Protocol::V1, Protocol::V2] {
                let _ = rebuild(protocol, &[all(&bytes), Selection { message: &bytes, entries: Chosen::Range(0..end.into()) }], Hostless::LeftOut);
            }
        }
    }
}
