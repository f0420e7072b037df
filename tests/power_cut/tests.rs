//! The model of the disk is judged: what was synced is there for certain, what was not may be missing, sector by
//! sector and name by name, and a trace is read as what happened.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::history::{Change, Directory, File, History, InFlight, Naming, Node, Span};
use super::image::{Cut, Image, Syncs};

const ROUNDS: u64 = 400;

fn span(entered: usize, left: usize) -> Span {
    Span { entered, left }
}

fn write(offset: u64, byte: u8, len: usize) -> Change {
    Change::Write { offset, data: vec![byte; len] }
}

/// One file `d/f` whose names are durable from the beginning.
fn one_file(changes: Vec<(Span, Change)>, syncs: Vec<Span>) -> History {
    let create = |name: &str, node| (span(0, 0), Naming::Create { name: name.into(), node });
    let directory = |name: &str, node| Directory { namings: vec![create(name, node)], syncs: vec![span(1, 1)] };
    History {
        files: vec![File { name: "d/f".into(), changes, syncs }],
        directories: [(String::new(), directory("d", Node::Directory)), ("d".into(), directory("d/f", Node::File(0)))]
            .into(),
        ..History::default()
    }
}

/// All contents of `d/f` that many images show; `None` where it is missing.
fn contents(history: &History, line: usize, syncs: Syncs) -> BTreeSet<Option<Vec<u8>>> {
    let image = |seed| Image::build(history, Cut { line, seed }, syncs);
    (0..ROUNDS).map(|seed| image(seed).content("d/f").map(|content| content.bytes().to_vec())).collect()
}

/// The sets of names that many images show.
fn names(history: &History, line: usize, is_out_of_order: bool) -> BTreeSet<Vec<String>> {
    let images = (0..ROUNDS).map(|seed| Image::build(history, Cut { line, seed }, Syncs::All));
    let wanted = images.filter(|image| image.fate.is_out_of_order == is_out_of_order);
    wanted.map(|image| image.names.into_keys().filter(|name| name != "d").collect()).collect()
}

#[test]
fn what_was_synced_is_there_in_every_image() {
    let history = one_file(vec![(span(2, 3), write(0, b'a', 2000))], vec![span(4, 5)]);
    assert_eq!(contents(&history, 5, Syncs::All), [Some(vec![b'a'; 2000])].into());
}

#[test]
fn a_sync_covers_only_what_was_over_when_it_began_and_only_when_it_is_over_itself() {
    let written = |sync| one_file(vec![(span(3, 6), write(0, b'a', 100))], vec![sync]);
    for (sync, cut, is_certain) in [
        (span(7, 8), 8, true),
        (span(7, 9), 8, false), // in flight
        (span(5, 7), 8, false), // began too early
        (span(1, 2), 8, false),
    ] {
        let seen = contents(&written(sync), cut, Syncs::All);
        assert!(seen.contains(&Some(vec![b'a'; 100])), "{sync:?}");
        assert_eq!(seen.len() == 1, is_certain, "{sync:?}: {seen:?}");
    }
}

#[test]
fn what_was_not_synced_may_be_missing_in_any_of_its_sectors() {
    let changes = vec![(span(2, 3), write(0, b'a', 1536)), (span(6, 7), write(0, b'b', 1536))];
    let history = one_file(changes, vec![span(4, 5)]);
    let seen = contents(&history, 7, Syncs::All);
    let sectors = |bytes: [u8; 3]| Some(bytes.into_iter().flat_map(|byte| [byte; 512]).collect::<Vec<u8>>());
    let all: BTreeSet<_> = (0..8u8)
        .map(|bits| sectors([0, 1, 2].map(|sector| if bits >> sector & 1 == 0 { b'a' } else { b'b' })))
        .collect();
    assert_eq!(seen, all);
    // What comes after the cut has not happened.
    assert_eq!(contents(&history, 5, Syncs::All), [sectors([b'a'; 3])].into());
}

#[test]
fn a_length_is_as_durable_as_what_made_it() {
    let grown = vec![(span(2, 3), write(0, b'a', 10)), (span(6, 7), write(10, b'b', 10))];
    let seen = contents(&one_file(grown, vec![span(4, 5)]), 7, Syncs::All);
    let expected =
        [b"aaaaaaaaaa".to_vec(), b"aaaaaaaaaabbbbbbbbbb".to_vec(), b"aaaaaaaaaa\0\0\0\0\0\0\0\0\0\0".to_vec()];
    assert_eq!(seen, expected.map(Some).into());

    let emptied = vec![(span(2, 3), write(0, b'a', 10)), (span(6, 7), Change::SetLen(0))];
    let seen = contents(&one_file(emptied, vec![span(4, 5)]), 7, Syncs::All);
    assert_eq!(seen, [Some(Vec::new()), Some(vec![b'a'; 10])].into());

    let allocate = |keeps_len| Change::Allocate { from: 0, to: 8192, keeps_len };
    let seen = contents(&one_file(vec![(span(2, 3), allocate(false))], vec![span(4, 5)]), 5, Syncs::All);
    assert_eq!(seen, [Some(vec![0; 8192])].into());
    let seen = contents(&one_file(vec![(span(2, 3), allocate(true))], vec![span(4, 5)]), 5, Syncs::All);
    assert_eq!(seen, [Some(Vec::new())].into());
}

#[test]
fn a_hole_reads_zero_or_until_it_is_synced_what_was_there() {
    let punch = Change::Punch { from: 0, to: 4096 };
    let changes = vec![(span(2, 3), write(0, b'a', 8192)), (span(6, 7), punch)];
    let seen = contents(&one_file(changes.clone(), vec![span(4, 5)]), 7, Syncs::All);
    for content in &seen {
        let content = content.as_ref().unwrap();
        let (hole, rest) = content.split_at(4096);
        assert!(hole.chunks(512).all(|sector| *sector == [0; 512] || *sector == [b'a'; 512]));
        assert_eq!(rest, [b'a'; 4096]);
    }
    assert!(seen.len() > 10, "holes come sector by sector");
    let history = one_file(changes, vec![span(4, 5), span(8, 9)]);
    assert_eq!(contents(&history, 9, Syncs::All), [Some([[0; 4096], [b'a'; 4096]].concat())].into());

    // On a real disk it takes no space.
    let dir = tempfile::tempdir().unwrap();
    Image::build(&history, Cut { line: 9, seed: 0 }, Syncs::All).write(dir.path());
    let metadata = fs::metadata(dir.path().join("d/f")).unwrap();
    assert_eq!(metadata.len(), 8192);
    assert!(metadata.blocks() <= 8, "{}", metadata.blocks());
}

/// `d` with `a` created, renamed to `b`, and `c` created, none of it synced.
fn names_at_work(syncs: Vec<Span>) -> History {
    let mut history = one_file(Vec::new(), Vec::new());
    history.files = vec![File::default(), File::default()];
    let create = |name: &str, file| Naming::Create { name: name.into(), node: Node::File(file) };
    let namings = vec![
        (span(2, 3), create("d/a", 0)),
        (span(4, 5), Naming::Rename { from: "d/a".into(), to: "d/b".into() }),
        (span(6, 7), create("d/c", 1)),
        (span(8, 9), Naming::Remove { name: "d/b".into() }),
    ];
    history.directories.insert("d".into(), Directory { namings, syncs });
    history
}

#[test]
fn names_that_were_not_synced_are_undone_from_the_last_one_on() {
    let history = names_at_work(Vec::new());
    let expected = [vec![], vec!["d/a"], vec!["d/b"], vec!["d/b", "d/c"], vec!["d/c"]];
    let expected: BTreeSet<Vec<String>> = expected.map(|names| names.into_iter().map(str::to_string).collect()).into();
    assert_eq!(names(&history, 9, false), expected);
}

#[test]
fn in_some_images_any_name_that_was_not_synced_is_missing() {
    let seen = names(&names_at_work(Vec::new()), 7, true);
    for expected in [vec!["d/b"], vec!["d/c"], vec!["d/a", "d/c"]] {
        let expected: Vec<String> = expected.into_iter().map(str::to_string).collect();
        assert!(seen.contains(&expected), "{expected:?} is not among {seen:?}");
    }
}

#[test]
fn names_that_were_synced_stay() {
    let history = names_at_work(vec![span(6, 7)]);
    let seen = names(&history, 7, false);
    let expected = [vec!["d/b"], vec!["d/b", "d/c"]].map(|names| names.into_iter().map(str::to_string).collect());
    assert_eq!(seen, expected.into());
    assert!(names(&history, 7, true).is_empty(), "one name alone is never out of order");
}

#[test]
fn a_directory_that_was_not_synced_may_be_missing_with_all_that_is_in_it() {
    let mut history = one_file(vec![(span(2, 3), write(0, b'a', 10))], vec![span(4, 5)]);
    history.directories.get_mut("").unwrap().syncs.clear();
    assert_eq!(contents(&history, 5, Syncs::All), [None, Some(vec![b'a'; 10])].into());
}

#[test]
fn a_kind_of_sync_can_be_left_out() {
    let history = one_file(vec![(span(2, 3), write(0, b'a', 10))], vec![span(4, 5)]);
    let whole = Some(vec![b'a'; 10]);
    assert_eq!(contents(&history, 5, Syncs::All), [whole.clone()].into());
    for (syncs, other) in
        [(Syncs::NotOfFiles, Some(Vec::new())), (Syncs::NotTheLast, Some(Vec::new())), (Syncs::NotOfDirectories, None)]
    {
        let seen = contents(&history, 5, syncs);
        assert!(seen.contains(&whole) && seen.contains(&other), "{syncs:?}: {seen:?}");
    }
}

#[test]
fn one_seed_is_one_image() {
    let changes = (0..50).map(|at| (span(2, 3), write(at * 512, 7, 512))).collect();
    let history = one_file(changes, Vec::new());
    let image = |seed| Image::build(&history, Cut { line: 9, seed }, Syncs::All).names;
    assert!((0..20).all(|seed| image(seed) == image(seed)));
    assert!((0..20).any(|seed| image(seed) != image(0)));
}

/// Text as strace prints it with `-xx`.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

fn read(lines: &[String]) -> Result<History, InFlight> {
    let stamped = lines.iter().enumerate().map(|(at, line)| {
        let (thread, call) = line.split_once(' ').unwrap();
        format!("{thread} 1700000000.{at:06} {call}\n")
    });
    History::read(&stamped.collect::<String>(), "/r/d")
}

#[test]
fn a_trace_is_read_as_what_happened_to_the_directory_and_nothing_else() {
    let (root, dir, tmp, file) = (hex("/r"), hex("/r/d"), hex("/r/d/x.tmp"), hex("/r/d/seg-x"));
    let other = hex("/r/other");
    let lines = [
        format!(r#"1 mkdir("{dir}", 0777) = 0"#),
        format!("1 fsync(3<{root}>) = 0"),
        format!(r#"1 openat(AT_FDCWD<{root}>, "{tmp}", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 7<{tmp}>"#),
        format!(r#"1 openat(AT_FDCWD<{root}>, "{other}", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 8<{other}>"#),
        format!("1 fallocate(7<{tmp}>, 0, 0, 1024) = 0"),
        format!(r#"1 write(7<{tmp}>, "{}", 2) = 2"#, hex("ab")),
        format!(r#"1 write(7<{tmp}>, "{}", 2) = 2"#, hex("cd")),
        format!(r#"1 write(8<{other}>, "{}", 2) = 2"#, hex("no")),
        format!(r#"1 rename("{tmp}", "{file}") = 0"#),
        format!(
            r#"1 pwritev(7<{file}>, [{{iov_base="{}", iov_len=2}}, {{iov_base="{}", iov_len=3}}], 2, 600 <unfinished ...>"#,
            hex("xy"),
            hex("z\"\0")
        ),
        format!("2 fdatasync(7<{file}> <unfinished ...>"),
        "1 <... pwritev resumed>) = 4".into(),
        "2 <... fdatasync resumed>) = 0".into(),
        format!("1 fdatasync(7<{file}>) = -1 EIO (Input/output error)"),
        format!("1 fallocate(7<{file}>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 512, 100) = 0"),
        format!("1 ftruncate(7<{file}>, 99) = 0"),
        format!(r#"1 unlink("{file}") = 0"#),
        format!("1 ftruncate(7<{file}>(deleted), 0) = 0"),
        "1 +++ exited with 0 +++".into(),
    ];
    let history = read(&lines).unwrap();
    let bytes = |offset, text: &str| Change::Write { offset, data: text.into() };
    let changes = vec![
        (span(4, 4), Change::Allocate { from: 0, to: 1024, keeps_len: false }),
        (span(5, 5), bytes(0, "ab")),
        (span(6, 6), bytes(2, "cd")),
        (span(9, 11), bytes(600, "xyz\"")),
        (span(14, 14), Change::Punch { from: 512, to: 612 }),
        (span(15, 15), Change::SetLen(99)),
    ];
    assert_eq!(history.files.len(), 1);
    assert_eq!(history.files[0].changes, changes);
    assert_eq!((history.files[0].name.as_str(), &history.files[0].syncs[..]), ("d/seg-x", &[span(10, 12)][..]));
    let namings = |name: &str| history.directories[name].namings.iter().map(|(at, _)| at.entered).collect::<Vec<_>>();
    assert_eq!((namings(""), namings("d")), (vec![0], vec![2, 8, 16]));
    assert_eq!(history.directories[""].syncs, [span(1, 1)]);
    // The write was not over when the sync began.
    let open: Vec<_> = history.segments().flat_map(|file| file.unsynced_writes(18)).collect();
    assert_eq!(open, [span(9, 11)]);
    assert_eq!(history.until(12), 1_700_000_000_000_013);
}

#[test]
fn a_change_in_flight_at_a_kill_makes_a_trace_useless() {
    let (root, dir, file) = (hex("/r"), hex("/r/d"), hex("/r/d/f"));
    let lines = [
        format!(r#"1 mkdir("{dir}", 0777) = 0"#),
        format!(r#"1 openat(AT_FDCWD<{root}>, "{file}", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 7<{file}>"#),
        format!("1 ftruncate(7<{file}>, 99 <unfinished ...>"),
        "1 +++ killed by SIGKILL +++".into(),
    ];
    assert!(read(&lines[..2]).is_ok());
    assert!(read(&lines).is_err());
}

#[test]
#[should_panic(expected = "not known here")]
fn a_call_that_the_model_does_not_know_is_not_passed_over() {
    let (dir, from, to) = (hex("/r/d"), hex("/r/d/a"), hex("/r/d/b"));
    let lines = [format!(r#"1 mkdir("{dir}", 0777) = 0"#), format!(r#"1 link("{from}", "{to}") = 0"#)];
    let _ = read(&lines);
}
