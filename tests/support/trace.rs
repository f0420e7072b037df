//! What `strace -f -y -ttt -o FILE` writes, as a list of system calls.
//!
//! The order of lines is the order of events as the tracer saw them: a call runs after the line on which it was entered and
//! before the line on which it was left. So a call left on line 10 was over when one entered on line 11 began.

use std::collections::HashMap;

/// One system call. Lines count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    /// As they were printed, without the parentheses.
    pub arguments: String,
    /// `None` if the call never ended.
    pub result: Option<i64>,
    pub entered: usize,
    /// `usize::MAX` if the call never ended.
    pub left: usize,
}

impl Call {
    pub fn succeeded(&self) -> bool {
        self.result.is_some_and(|result| result >= 0)
    }

    /// What the file descriptor in the first argument stands for: a path, or `socket:[4711]`.
    pub fn file(&self) -> Option<&str> {
        let digits = self.arguments.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let name = self.arguments[digits..].strip_prefix('<')?;
        // The name of a connection has `->` within its brackets.
        let end = match name.split(&['/', ',']).next()?.contains(":[") {
            true => name.find("]>")? + 1,
            false => name.find('>')?,
        };
        Some(&name[..end])
    }

    /// The strings among the arguments, as they were printed.
    pub fn strings(&self) -> Vec<&str> {
        let mut strings = Vec::new();
        let mut begin = None;
        let mut is_escaped = false;
        for (at, byte) in self.arguments.bytes().enumerate() {
            match (begin, byte) {
                (Some(_), _) if is_escaped => is_escaped = false,
                (Some(_), b'\\') => is_escaped = true,
                (Some(from), b'"') => {
                    strings.push(&self.arguments[from..at]);
                    begin = None;
                }
                (None, b'"') => begin = Some(at + 1),
                _ => {}
            }
        }
        strings
    }
}

/// All calls, in the order in which they were entered.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<u32, usize> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, text)) = split_line(line) else { continue };
        if let Some(resumed) = text.strip_prefix("<... ") {
            let Some((name, rest)) = resumed.split_once(" resumed>") else { continue };
            let Some(call) = unfinished.remove(&thread).map(|call| &mut calls[call]) else { continue };
            assert_eq!(
                call.name, name,
                "line {number} goes on with a call which thread {thread} did not begin: {line}"
            );
            let (arguments, result) = split_result(rest);
            call.arguments += arguments;
            call.result = result;
            call.left = number;
        } else if let Some((name, rest)) = text.split_once('(') {
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                continue;
            }
            let (arguments, result, left) = match rest.strip_suffix("<unfinished ...>") {
                Some(arguments) => (arguments.trim_end(), None, usize::MAX),
                None => {
                    let (arguments, result) = split_result(rest);
                    (arguments, result, number)
                }
            };
            if left == usize::MAX {
                unfinished.insert(thread, calls.len());
            }
            let (name, arguments) = (name.into(), arguments.into());
            calls.push(Call { thread, name, arguments, result, entered: number, left });
        }
    }
    calls
}

/// Thread and event of `1234  1700000000.123456 event`; `None` for a line that is no event, such as a cut one.
fn split_line(line: &str) -> Option<(u32, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (time, event) = rest.trim_start().split_once(' ')?;
    time.parse::<f64>().ok()?;
    Some((thread.parse().ok()?, event))
}

/// Arguments and result of `1, 2)   = 3 ...`.
fn split_result(text: &str) -> (&str, Option<i64>) {
    let Some((arguments, result)) = text.rsplit_once(" = ") else { return (text, None) };
    let arguments = arguments.trim_end();
    let end = result.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(result.len());
    (arguments.strip_suffix(')').unwrap_or(arguments), result[..end].parse().ok())
}
