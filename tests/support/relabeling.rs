//! Rules, series, and what becomes of them. Tested by themselves, and against a real Prometheus that has the same rules.

use std::collections::BTreeMap;

use promrelay::relabel::RelabelConfig;

/// Rules as in `config.toml`, each between braces, and series before and after: the metric's name, then labels. `""` is a series that is dropped.
pub struct Case {
    pub name: &'static str,
    pub external_labels: &'static [(&'static str, &'static str)],
    pub configs: &'static [&'static str],
    pub series: &'static [(&'static str, &'static str)],
}

impl Case {
    pub fn external_labels(&self) -> BTreeMap<String, String> {
        self.external_labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    pub fn configs(&self) -> Vec<RelabelConfig> {
        self.configs.iter().map(|text| config(text).unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
    }
}

/// A rule as in `config.toml`, between braces.
pub fn config(text: &str) -> Result<RelabelConfig, toml::de::Error> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: RelabelConfig,
    }
    toml::from_str::<File>(&format!("rule = {{ {text} }}")).map(|file| file.rule)
}

/// `up|job=a` as labels, sorted by name.
pub fn labels(series: &str) -> Vec<(String, String)> {
    let mut labels: Vec<(String, String)> = Vec::new();
    for (number, label) in series.split('|').filter(|label| !label.is_empty()).enumerate() {
        let (name, value) = if number == 0 { ("__name__", label) } else { label.split_once('=').unwrap() };
        labels.push((name.to_owned(), value.to_owned()));
    }
    labels.sort();
    labels
}

const fn case(
    name: &'static str,
    configs: &'static [&'static str],
    series: &'static [(&'static str, &'static str)],
) -> Case {
    Case { name, external_labels: &[], configs, series }
}

const EXTERNAL: &[(&str, &str)] = &[("cluster", "eu-1"), ("replica", "a"), ("empty", "")];

const fn with_external_labels(
    name: &'static str,
    configs: &'static [&'static str],
    series: &'static [(&'static str, &'static str)],
) -> Case {
    Case { name, external_labels: EXTERNAL, configs, series }
}

pub const CASES: &[Case] = &[
    // replace
    case(
        "what matches is written, what does not leaves all as it is",
        &["source_labels = ['instance'], regex = '([^:]+):\\d+', target_label = 'host'"],
        &[
            ("up|instance=web-1:9100", "up|instance=web-1:9100|host=web-1"),
            ("up|instance=web-1", "up|instance=web-1"),
            ("up|instance=web-1:x|host=old", "up|instance=web-1:x|host=old"),
            ("up|instance=web-2:1|host=old", "up|instance=web-2:1|host=web-2"),
        ],
    ),
    case(
        "an expression matches the whole text or nothing",
        &["source_labels = ['job'], regex = 'a|ab', target_label = 'm', replacement = 'yes'"],
        &[
            ("up|job=a", "up|job=a|m=yes"),
            ("up|job=ab", "up|job=ab|m=yes"),
            ("up|job=abc", "up|job=abc"),
            ("up|job=xa", "up|job=xa"),
        ],
    ),
    case(
        "the dot takes a line break",
        &["source_labels = ['text'], regex = 'a(.*)b', target_label = 'm', replacement = '<$1>'"],
        &[("up|text=a1\n2b", "up|text=a1\n2b|m=<1\n2>")],
    ),
    case(
        "without source labels and regex a constant is written",
        &["target_label = 'team', replacement = 'storage'"],
        &[("up", "up|team=storage"), ("up|team=web", "up|team=storage")],
    ),
    case(
        "an empty result takes the label away",
        &["target_label = 'a', replacement = ''", "source_labels = ['b'], target_label = 'b', regex = '.*(x)?'"],
        &[("up|a=1|b=2|c=3", "up|c=3"), ("up|c=3", "up|c=3")],
    ),
    case(
        "the default replacement is the first group of the default regex: everything",
        &["source_labels = ['a', 'b'], target_label = 'c'"],
        &[("up|a=1|b=2", "up|a=1|b=2|c=1;2"), ("up|a=1", "up|a=1|c=1;"), ("up", "up|c=;")],
    ),
    case(
        "values are joined in the order of the rule, also twice, by any separator",
        &[
            "source_labels = ['b', 'a', 'b'], separator = '::', target_label = 'c'",
            "source_labels = ['b', 'a'], separator = '', target_label = 'd'",
        ],
        &[("up|a=1|b=2", "up|a=1|b=2|c=2::1::2|d=21")],
    ),
    case(
        "an empty source without a separator writes nothing, and takes away what was there",
        &["source_labels = ['none'], target_label = 'c'"],
        &[("up|c=1", "up"), ("up", "up")],
    ),
    case(
        "the target is a template too",
        &["source_labels = ['kind', 'value'], regex = '(\\w+);(.*)', target_label = 'is_${1}', replacement = '$2'"],
        &[("up|kind=db|value=pg", "up|kind=db|value=pg|is_db=pg"), ("up|kind=a b|value=c", "up|kind=a b|value=c")],
    ),
    case(
        "a target that comes out empty is not written",
        &["source_labels = ['kind'], regex = '(.*)', target_label = '$1', replacement = 'x'"],
        &[("up", "up"), ("up|kind=k", "up|kind=k|k=x"), ("up|kind=käse laden", "up|kind=käse laden|käse laden=x")],
    ),
    case(
        "the metric's name is a label",
        &["source_labels = ['__name__'], regex = 'old_(.+)', target_label = '__name__', replacement = 'new_$1'"],
        &[("old_total|a=1", "new_total|a=1"), ("older|a=1", "older|a=1")],
    ),
    case(
        "a series without a metric's name is dropped",
        &["source_labels = ['gone'], regex = 'yes', target_label = '__name__', replacement = ''"],
        &[("up|gone=yes", ""), ("up|gone=no", "up|gone=no")],
    ),
    case(
        "any text is a name",
        &["target_label = 'a-b.c d', replacement = '1'", "target_label = 'größe', replacement = '2'"],
        &[("up", "up|a-b.c d=1|größe=2")],
    ),
    case(
        "a regex may be empty, and matches what is empty",
        &["source_labels = ['a'], regex = '', target_label = 'a', replacement = 'none'"],
        &[("up", "up|a=none"), ("up|a=1", "up|a=1")],
    ),
    // Templates.
    case(
        "a name in a template is as long as can be",
        &[
            "source_labels = ['v'], regex = '(.)(.)(?P<last>.)?', target_label = 'a', replacement = '[$1x][${1}x][$1_][$1-][$1é][$1$2]'",
            "source_labels = ['v'], regex = '(.)(.)(?P<last>.)?', target_label = 'b', replacement = '[$last][${last}][$3][${lost}][$4][$0]'",
            "source_labels = ['v'], regex = '(.)(.)(?P<last>.)?', target_label = 'c', replacement = '$$1 $ ${ ${1 $- ${} ${1-} $'",
            "source_labels = ['v'], regex = '(.)(.)(?P<last>.)?', target_label = 'd', replacement = '[$01][$10][$999999999][$9999999999][$²][$٣][${1}2]'",
        ],
        &[
            (
                "up|v=xyz",
                "up|v=xyz|a=[][xx][][x-][][xy]|b=[z][z][z][][][xyz]|c=$1 $ ${ ${1 $- ${} ${1-} $|d=[][][][][$²][][x2]",
            ),
            (
                "up|v=xy",
                "up|v=xy|a=[][xx][][x-][][xy]|b=[][][][][][xy]|c=$1 $ ${ ${1 $- ${} ${1-} $|d=[][][][][$²][][x2]",
            ),
        ],
    ),
    case(
        "of groups with the same name the first that took part is taken; a name may begin with a digit",
        &[
            "source_labels = ['v'], regex = '(?P<n>a)|(?P<n>b)', target_label = 'm', replacement = '<$n>'",
            "source_labels = ['v'], regex = '(?<1x>.)', target_label = 'x', replacement = '<$1x>'",
        ],
        &[("up|v=a", "up|v=a|m=<a>|x=<a>"), ("up|v=b", "up|v=b|m=<b>|x=<b>"), ("up|v=ab", "up|v=ab")],
    ),
    case(
        "groups that leave their brackets mean what they mean in Prometheus",
        &["source_labels = ['v'], regex = 'a)|(b', target_label = 'm', replacement = '<$0>'"],
        &[("up|v=a!", "up|v=a!|m=<a>"), ("up|v=!b", "up|v=!b|m=<b>"), ("up|v=c", "up|v=c")],
    ),
    // keep, drop
    case(
        "keep drops what does not match",
        &["source_labels = ['job'], regex = 'api|web', action = 'keep'"],
        &[("up|job=api", "up|job=api"), ("up|job=apis", ""), ("up", "")],
    ),
    case(
        "drop drops what matches, also what is not there",
        &["source_labels = ['job'], regex = '|api', action = 'drop'"],
        &[("up|job=api", ""), ("up|job=web", "up|job=web"), ("up", "")],
    ),
    case("keep without anything keeps everything", &["action = 'keep'"], &[("up|a=1", "up|a=1")]),
    case("drop without anything drops everything", &["action = 'drop'"], &[("up|a=1", "")]),
    case(
        "actions are known in upper case, and rules after one that dropped are not asked",
        &[
            "source_labels = ['job'], regex = 'api', action = 'Drop'",
            "target_label = 'job', replacement = 'web', action = 'REPLACE'",
        ],
        &[("up|job=api", ""), ("up|job=x", "up|job=web")],
    ),
    case(
        "rules see what the rules before them wrote",
        &[
            "source_labels = ['a'], target_label = 'b'",
            "source_labels = ['b'], regex = '1', action = 'keep'",
            "regex = 'a', action = 'labeldrop'",
            "source_labels = ['a'], regex = '', target_label = 'a', replacement = 'again'",
        ],
        &[("up|a=1", "up|a=again|b=1"), ("up|a=2|b=1", "")],
    ),
    // keepequal, dropequal
    case(
        "keepequal keeps what is equal",
        &["source_labels = ['a', 'b'], target_label = 'c', action = 'keepequal'"],
        &[("up|a=1|b=2|c=1;2", "up|a=1|b=2|c=1;2"), ("up|a=1|b=2|c=12", ""), ("up|c=;", "up|c=;"), ("up", "")],
    ),
    case(
        "dropequal drops what is equal, also where neither is there",
        &["source_labels = ['a'], target_label = 'c', action = 'dropequal'"],
        &[("up|a=1|c=1", ""), ("up|a=1|c=2", "up|a=1|c=2"), ("up", "")],
    ),
    // hashmod
    case(
        "hashmod takes the last eight bytes of MD5",
        &["source_labels = ['a', 'b'], target_label = 'shard', modulus = 1000, action = 'hashmod'"],
        &[("up|a=1|b=2", "up|a=1|b=2|shard=316"), ("up", "up|shard=393")],
    ),
    case(
        "a modulus may be large, and 1",
        &[
            "source_labels = ['a'], target_label = 'large', modulus = 9223372036854775807, action = 'hashmod'",
            "source_labels = ['a'], target_label = 'one', modulus = 1, action = 'hashmod'",
        ],
        &[("up|a=1", "up|a=1|large=994258241967195291|one=0")],
    ),
    // labelmap
    case(
        "labelmap copies labels to names made of theirs",
        &["regex = 'meta_(.+)', action = 'labelmap'"],
        &[("up|meta_a=1|meta_=2|b=3", "up|meta_a=1|meta_=2|b=3|a=1"), ("up|meta_b=1|b=3", "up|meta_b=1|b=1")],
    ),
    case(
        "of labels that get the same name the later one wins: by name, then in the order of writing",
        &[
            "target_label = 'x_0', replacement = 'written'",
            "target_label = 'x_1', replacement = 'written over'",
            "regex = 'x_.', replacement = 'y', action = 'labelmap'",
        ],
        &[
            ("up|x_3=3|x_2=2", "up|x_0=written|x_1=written over|x_2=2|x_3=3|y=written over"),
            ("up|x_1=1|x_9=9", "up|x_0=written|x_1=written over|x_9=9|y=written over"),
        ],
    ),
    case(
        "labelmap does not see what it writes",
        &["regex = 'a(.*)', replacement = 'aa$1', action = 'labelmap'"],
        &[("up|a=1|aa=2", "up|a=1|aa=1|aaa=2")],
    ),
    case(
        "labelmap writes no label without a name",
        &["regex = 'a(.*)', action = 'labelmap'"],
        &[("up|a=1|ab=2", "up|a=1|ab=2|b=2")],
    ),
    case(
        "labelmap replaces every match in a name",
        &["regex = 'x)|(o', replacement = '<$0>', action = 'labelmap'"],
        &[("up|x_o=1", "up|x_o=1|<x>_<o>=1")],
    ),
    case(
        "a label that was taken away and written again is mapped as written",
        &[
            "regex = 'a', action = 'labeldrop'",
            "target_label = 'a', replacement = '2'",
            "regex = '(a)', replacement = '${1}_copy', action = 'labelmap'",
        ],
        &[("up|a=1|b=1", "up|a=2|a_copy=2|b=1")],
    ),
    // labeldrop, labelkeep
    case(
        "labeldrop takes labels away by name",
        &["regex = 'tmp_.*|b', action = 'labeldrop'"],
        &[("up|tmp_a=1|tmp=2|b=3", "up|tmp=2"), ("up|bb=1", "up|bb=1")],
    ),
    case(
        "labelkeep takes all others away, the metric's name too",
        &["regex = '__name__|a.*', action = 'labelkeep'"],
        &[("up|a=1|ab=2|b=3", "up|a=1|ab=2"), ("up|b=1", "up")],
    ),
    case(
        "labelkeep without the metric's name leaves no series",
        &["regex = 'a', action = 'labelkeep'"],
        &[("up|a=1", "")],
    ),
    // lowercase, uppercase
    case(
        "case is changed rune by rune",
        &[
            "source_labels = ['a', 'b'], separator = '-', target_label = 'lower', action = 'lowercase'",
            "source_labels = ['a', 'b'], separator = '-', target_label = 'upper', action = 'uppercase'",
        ],
        &[
            ("up|a=Straße|b=ΟΔΟΣ", "up|a=Straße|b=ΟΔΟΣ|lower=straße-οδοσ|upper=STRAßE-ΟΔΟΣ"),
            ("up|a=İıſK|b=ﬁŉǆǅᾳᾀᾈ", "up|a=İıſK|b=ﬁŉǆǅᾳᾀᾈ|lower=iıſk-ﬁŉǆǆᾳᾀᾀ|upper=İISK-ﬁŉǄǄᾼᾈᾈ"),
        ],
    ),
    case(
        "what is empty in lower case takes the label away",
        &["source_labels = ['none'], target_label = 'a', action = 'lowercase'"],
        &[("up|a=1", "up")],
    ),
    // External labels.
    with_external_labels(
        "external labels come where there is none of the name",
        &[],
        &[("up", "up|cluster=eu-1|replica=a"), ("up|replica=z", "up|cluster=eu-1|replica=z")],
    ),
    with_external_labels(
        "rules see external labels, also written before what they write",
        &[
            "source_labels = ['replica'], regex = 'z', action = 'drop'",
            "source_labels = ['cluster'], regex = '(..)-.', target_label = 'region'",
            "regex = 'replica|empty', action = 'labeldrop'",
            "regex = 'c.*|r.*', replacement = 'last', action = 'labelmap'",
        ],
        &[("up|c=1", "up|c=1|cluster=eu-1|last=eu|region=eu"), ("up|replica=z", "")],
    ),
];

/// Expressions, texts that they match, and texts that they do not match.
pub const EXPRESSIONS: &[(&str, &[&str], &[&str])] = &[
    // ASCII, whatever the crate makes of them.
    (r"\d+", &["12"], &["٣", "²"]),
    (r"\w+", &["aZ_9"], &["é", "ſ"]),
    (r"(?i)\w+", &["ſ", "\u{212a}"], &["é"]),
    (r"\s", &[" ", "\n"], &["\u{b}", "\u{a0}"]),
    (r"\S\D\W", &["\u{b}٣é"], &["aa1"]),
    (r"a\b.*", &["aé", "a b"], &["ab"]),
    (r".\Ba", &["ba"], &["éa"]),
    (r"[\d_]+[\W]", &["1_é"], &["1_a"]),
    (r"[[:alpha:]]+[[:^alpha:]]", &["aé", "Z1"], &["éa"]),
    (r"(?i)[[:^upper:]]", &["1", "é"], &["a", "ſ"]),
    // Characters that are plain in Go.
    (r"[[a]+", &["[a"], &["]"]),
    ("[a&&b]+", &["a&b"], &["c"]),
    ("[+--b]", &["-", ",", "b"], &["."]),
    ("[a~~b]+", &["~ab"], &["c"]),
    ("[]a]+", &["]a"], &["b"]),
    ("[^]a]", &["b"], &["]", "a"]),
    ("[a-]+", &["-a"], &["b"]),
    ("[a-c-e]+", &["b-e"], &["d"]),
    ("[[:a]+", &["[:a"], &["b"]),
    ("a{,2}", &["a{,2}"], &["aa"]),
    ("a{02}", &["a{02}"], &["aa"]),
    ("{}]", &["{}]"], &[""]),
    (r"\<a\>", &["<a>"], &["a"]),
    (r"\_\-\/\.", &["_-/."], &["_-/a"]),
    // Escapes.
    (r"\Qa.*b\E+", &["a.*bb"], &["axb"]),
    (r"a\Q\E*", &["aaa", ""], &["b"]),
    (r"\101\0\x41\x{e9}\n", &["A\0Aé\n"], &["A"]),
    (r"[\x{d800}a]", &["a"], &["b"]),
    (r"\x{d800}?", &[""], &["a"]),
    (r"[^\x{0}-\x{10FFFF}]", &[], &["", "a"]),
    // Classes of Unicode.
    (r"\pN\p{Greek}\p{^Greek}\P{Lu}", &["1αaa"], &["1αaA"]),
    (r"[\p{Lu}\pN]+", &["É٣"], &["é"]),
    (r"\p{Letter}\p{old_italic}?\p{lu}", &["aA"], &["aa"]),
    (r"(?i)\p{Lu}", &["é"], &["1"]),
    // Flags.
    ("(?i)straße(?-i)X", &["STRAßEX", "STRAẞEX"], &["straßex", "STRASSEX"]),
    ("(?i:K)k", &["\u{212a}k", "kk"], &["KK"]),
    ("(?-s:a.)b", &["axb"], &["a\nb"]),
    ("(?m)a$\n^b", &["a\nb"], &["ab"]),
    ("(?s-i)a", &["a"], &["A"]),
    ("(?)a", &["a"], &[""]),
    ("a(?i)*", &["aa", ""], &["A"]),
    // Repetitions.
    ("a{2,3}", &["aa", "aaa"], &["a", "aaaa"]),
    ("a{0}b{1,}?", &["b", "bb"], &["ab"]),
    ("(a|){2,3}(|b)*", &["", "aaa", "ab"], &["aaaa"]),
    ("(a*)*^*$*", &["aa", ""], &["b"]),
    ("a{1000}", &[], &["a"]),
    ("((a{1000}){0}){1000}", &[""], &["a"]),
    ("|a||b", &["", "a", "b"], &["ab"]),
    (r"\A\z", &[""], &["a"]),
    (".", &["漢", "\u{10ffff}"], &["", "ab"]),
];

/// What an expression's groups are, written as `$1,$2`.
pub const GROUPS: &[(&str, &str, &str)] = &[
    ("(a+?)(a*)", "aaa", "a,aa"),
    ("(?U)(a+)(a*)", "aaa", "a,aa"),
    ("(?U)(a+?)(a*)", "aaa", "aaa,"),
    ("(a|ab)(c|bcd)?(.*)", "abcd", "a,bcd"),
    ("(|a)*(.*)", "aa", ",aa"),
    ("(a)?(b)", "b", ",b"),
    ("(?:(a)|(b))*", "ab", "a,b"),
    ("(a*)+(b?)", "aa", "aa,"),
];

/// Expressions that Prometheus refuses.
pub const REFUSED_EXPRESSIONS: &[&str] = &[
    "*a",
    "(*a)",
    "|*",
    "(?i)*",
    "a**",
    "a*??",
    "a++",
    "a{2}{3}",
    "a{1001}",
    "a{2,1}",
    "a{99999999999}",
    "(a{10}){101}",
    "((a{10}){10}){11}",
    "(",
    ")",
    "(a",
    "[",
    "[]",
    "[a",
    "[z-a]",
    "[a--b]",
    r"[a-\d]",
    "[[:foo:]]",
    r"[\b]",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!a)",
    "(?>a)",
    "(?#a)",
    "(?x)a",
    "(?R)a",
    "(?u)a",
    "(?-)a",
    "(?i-)a",
    "(?P<n a>b)",
    "(?P<é>b)",
    "(?P<>b)",
    "(?P=n)",
    "(?P<n",
    r"\1",
    r"(a)\1",
    r"\8",
    r"\C",
    r"\Z",
    r"\E",
    r"\q",
    r"\é",
    r"\x",
    r"\x4",
    r"\x{110000}",
    r"\x{}",
    r"\p{Greekish}",
    r"\p{White_Space}",
    r"\p{Grek}",
    r"\p{sc=Greek}",
    r"\p{isGreek}",
    r"\p{}",
    r"\p",
    r"\p{L",
    r"\",
    r"\Qa",
];

/// Rules that Prometheus refuses: the key that is wrong, and the rule.
pub const REFUSED: &[(&str, &str)] = &[
    ("target_label", "replacement = 'a'"),
    ("target_label", "target_label = ''"),
    ("regex", "target_label = 'a', regex = 'a('"),
    ("source_labels", "source_labels = ['a', ''], target_label = 'b'"),
    ("target_label", "source_labels = ['a'], action = 'keepequal'"),
    ("target_label", "source_labels = ['a'], action = 'dropequal'"),
    ("regex", "source_labels = ['a'], target_label = 'b', regex = '(.*)', action = 'keepequal'"),
    ("separator", "source_labels = ['a'], target_label = 'b', separator = ',', action = 'keepequal'"),
    ("replacement", "source_labels = ['a'], target_label = 'b', replacement = 'c', action = 'dropequal'"),
    ("modulus", "source_labels = ['a'], target_label = 'b', modulus = 1, action = 'dropequal'"),
    ("modulus", "source_labels = ['a'], target_label = 'b', action = 'hashmod'"),
    ("modulus", "source_labels = ['a'], target_label = 'b', modulus = 0, action = 'hashmod'"),
    ("target_label", "source_labels = ['a'], modulus = 2, action = 'hashmod'"),
    ("regex", "source_labels = ['a'], modulus = 2, target_label = 'b', regex = '[', action = 'hashmod'"),
    ("replacement", "regex = 'a', replacement = '', action = 'labelmap'"),
    ("source_labels", "regex = 'a', source_labels = ['a'], action = 'labeldrop'"),
    ("source_labels", "regex = 'a', source_labels = [], action = 'labelkeep'"),
    ("target_label", "regex = 'a', target_label = 'a', action = 'labeldrop'"),
    ("modulus", "regex = 'a', modulus = 1, action = 'labelkeep'"),
    ("separator", "regex = 'a', separator = '', action = 'labeldrop'"),
    ("replacement", "regex = 'a', replacement = '', action = 'labelkeep'"),
    ("target_label", "source_labels = ['a'], action = 'lowercase'"),
    ("replacement", "source_labels = ['a'], target_label = 'b', replacement = 'c', action = 'uppercase'"),
    ("regex", "source_labels = ['a'], target_label = 'b', regex = '\\1', action = 'lowercase'"),
];

/// Rules with more in them than they use, which Prometheus lets pass.
pub const SUPERFLUOUS: &[&str] = &[
    "source_labels = ['a'], regex = 'b', target_label = 'c', replacement = 'd', modulus = 3, action = 'keep'",
    "source_labels = ['a'], target_label = 'c', separator = ';', replacement = '$1', modulus = 0, action = 'keepequal'",
    "regex = 'a', separator = ';', replacement = '$1', target_label = '', action = 'labeldrop'",
    "source_labels = ['a'], target_label = 'c', regex = 'x', modulus = 3, action = 'lowercase'",
    "source_labels = ['a'], target_label = 'c', regex = 'x', replacement = 'y', modulus = 3, action = 'hashmod'",
    "source_labels = ['a'], target_label = 'c', separator = 'x', action = 'labelmap'",
    "target_label = 'c', modulus = 3",
];
