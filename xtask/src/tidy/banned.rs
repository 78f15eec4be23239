//! Words and calls that may not stand in Rust code, with what to write instead.

use super::code::is_word;
use super::tree::{File, Finding, Rust, Tree, lines};

/// One banned piece of code.
struct Ban {
    /// The code, without spaces that rustfmt would not write.
    code: &'static str,
    /// What to do about it.
    instead: &'static str,
    /// In tests and examples as well.
    in_tests: bool,
    /// Files or folders where it may stand, each with its reason.
    allowed: &'static [(&'static str, &'static str)],
}

const CLOCKS: &[(&str, &str)] = &[
    (
        "aio/src/backend/uring.rs",
        "gives a dying kernel request a limited time, under any clock",
    ),
    ("aio/src/clock.rs", "the one real clock"),
    ("benches/", "measures time"),
    ("longshore/src/main.rs", "tells a person how long it took"),
    ("longshore/src/cli/", "tells a person how long it took"),
    ("sim/src/main.rs", "tells a person how long it took"),
    ("xtask/", "tells a person how long it took"),
];

const PRINTERS: &[(&str, &str)] = &[
    ("benches/", "prints what it measured"),
    ("longshore/", "the command line"),
    ("sim/src/main.rs", "the command line of developers"),
    ("xtask/", "the command line of developers"),
];

const LOOPS: &[(&str, &str)] = &[
    ("aio/", "the loop itself"),
    ("benches/", "start-up of a measurement"),
    (
        "job/src/finish.rs",
        "lets code that cannot await wait for a job, as embedders are promised",
    ),
    ("longshore/src/main.rs", "start-up"),
];

// `.run(` alone would also hit `JobDriver::run`, which is no loop.
const BANS: &[Ban] = &[
    Ban {
        code: "thread::sleep",
        instead: SLEEP,
        in_tests: false,
        allowed: &[],
    },
    Ban {
        code: "Instant::now",
        instead: TIME,
        in_tests: false,
        allowed: CLOCKS,
    },
    Ban {
        code: "SystemTime::now",
        instead: TIME,
        in_tests: false,
        allowed: CLOCKS,
    },
    Ban {
        code: "todo!",
        instead: TODO,
        in_tests: true,
        allowed: &[],
    },
    Ban {
        code: "dbg!",
        instead: "remove it",
        in_tests: true,
        allowed: &[],
    },
    Ban {
        code: "println!",
        instead: PRINT,
        in_tests: false,
        allowed: PRINTERS,
    },
    Ban {
        code: "eprintln!",
        instead: PRINT,
        in_tests: false,
        allowed: PRINTERS,
    },
    Ban {
        code: "print!",
        instead: PRINT,
        in_tests: false,
        allowed: PRINTERS,
    },
    Ban {
        code: "eprint!",
        instead: PRINT,
        in_tests: false,
        allowed: PRINTERS,
    },
    Ban {
        code: "#[allow(",
        instead: ALLOW,
        in_tests: true,
        allowed: &[],
    },
    Ban {
        code: "#![allow(",
        instead: ALLOW,
        in_tests: true,
        allowed: &[],
    },
    Ban {
        code: "block_on(",
        instead: LOOP,
        in_tests: false,
        allowed: LOOPS,
    },
    Ban {
        code: "AioContext::run(",
        instead: LOOP,
        in_tests: false,
        allowed: LOOPS,
    },
    Ban {
        code: "context.run(",
        instead: LOOP,
        in_tests: false,
        allowed: LOOPS,
    },
    Ban {
        code: "ctx.run(",
        instead: LOOP,
        in_tests: false,
        allowed: LOOPS,
    },
];

const SLEEP: &str = "await an aio timer; sleeping stalls every request of the context";
const TIME: &str = "ask the context's clock (`AioContext::now_ns`), or tests cannot stop time";
const TODO: &str = "do it, or leave it out and name the issue in a comment `TODO(#n)`";
const PRINT: &str = "use `tracing`; only the command line talks to the terminal";
const ALLOW: &str = "use `#[expect(.., reason = \"..\")]`, which goes when its cause goes";
const LOOP: &str = "await it: nobody runs a loop inside a loop";

/// Checks every Rust file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust_files()
        .flat_map(|(file, rust)| check_file(file, rust))
        .collect()
}

fn check_file(file: &File, rust: &Rust) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ban in BANS {
        if ban
            .allowed
            .iter()
            .any(|(place, _)| file.path.starts_with(place))
        {
            continue;
        }
        let code = if ban.in_tests {
            &rust.code
        } else {
            &rust.product
        };
        for (number, _) in lines(code).filter(|(_, line)| has(line, ban.code)) {
            let message = format!("no `{}` here: {}", ban.code, ban.instead);
            findings.push(Finding::at(&file.path, number, message));
        }
    }
    for (number, line) in lines(&rust.comments) {
        if let Some(word) = nameless_todo(line) {
            let message = format!("write `TODO(#n)` with the issue's number instead of `{word}`");
            findings.push(Finding::at(&file.path, number, message));
        }
    }
    findings
}

/// Whether `line` has `code` as words of its own, so that `println!` is not found in `eprintln!`.
fn has(line: &str, code: &str) -> bool {
    let is_alone = |at: usize| !(code.starts_with(is_word) && line[..at].ends_with(is_word));
    line.match_indices(code).any(|(at, _)| is_alone(at))
}

/// The word in a comment that promises work without naming an issue.
fn nameless_todo(comment: &str) -> Option<&'static str> {
    let is_named = |rest: &str| {
        let number = rest
            .strip_prefix("(#")
            .and_then(|rest| rest.split_once(')'));
        number.is_some_and(|(number, _)| number.parse::<u32>().is_ok())
    };
    let nameless = |word: &'static str| {
        let mut found = comment.match_indices(word);
        found.any(|(at, _)| has(comment, word) && !is_named(&comment[at + word.len()..]))
    };
    ["TODO", "FIXME"].into_iter().find(|word| nameless(word))
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    /// A line with `code` in it, as product code of `path`.
    fn found(path: &str, code: &str) -> Vec<String> {
        let text = format!("fn a() {{\n    b::{code};\n}}\n");
        places(&check(&tree(&[(path, &text)])))
    }

    #[test]
    fn every_ban_is_noticed() {
        for ban in BANS {
            assert_eq!(
                found("block/src/lib.rs", ban.code),
                ["block/src/lib.rs:2"],
                "{}",
                ban.code
            );
        }
    }

    #[test]
    fn every_allowance_allows() {
        let allowances = |ban: &'static Ban| ban.allowed.iter().map(move |place| (ban, place));
        for (ban, (place, reason)) in BANS.iter().flat_map(allowances) {
            let path = format!("{place}/x.rs")
                .replace("//", "/")
                .replace(".rs/x.rs", ".rs");
            assert!(
                found(&path, ban.code).is_empty(),
                "{} in {path}: {reason}",
                ban.code
            );
        }
    }

    #[test]
    fn tests_and_examples_may_run_loops_and_print_but_not_allow() {
        let text = "#[allow(a)]\nfn b() { c.block_on(d); println!() }\n";
        let inline = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        let files = [
            ("block/examples/e.rs", text),
            ("block/src/lib.rs", inline.as_str()),
            ("block/tests/t.rs", text),
        ];
        let wanted = [
            "block/examples/e.rs:1",
            "block/src/lib.rs:3",
            "block/tests/t.rs:1",
        ];
        assert_eq!(places(&check(&tree(&files))), wanted);
    }

    #[test]
    fn longer_words_comments_and_texts_are_other_things() {
        let text =
            "// println!\nlet a = \"dbg!\";\nmy_block_on(b);\nmy_todo!();\ndriver.run(c).await;\n";
        assert_eq!(check(&tree(&[("block/src/lib.rs", text)])), []);
    }

    #[test]
    fn a_promise_names_its_issue() {
        let text = "// TODO(#12): a.\n// TODO: b.\n// TODO(c): c.\n/// FIXME d.\n// TODO(#n) e.\nlet f = \"TODO\";\n";
        let wanted = [2, 3, 4, 5].map(|line| format!("block/src/lib.rs:{line}"));
        assert_eq!(places(&check(&tree(&[("block/src/lib.rs", text)]))), wanted);
    }
}
