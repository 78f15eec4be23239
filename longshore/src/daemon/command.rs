//! [`Command`]: a name, its types and its function; and [`Commands`], all of them.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, rc::Rc};

use qmp::{
    QmpError, Schema, Value,
    schema::{Age, Order},
    types::{Input, Qapi, Style},
};

use super::{Daemon, bitmaps, chardev, exports, jobs, misc, monitor, nodes, objects, transaction};

/// Who may use a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Clients and the command line.
    Everywhere,
    /// The command line only.
    Line,
}

/// What a command does when it is run.
type Run = dyn Fn(Rc<Daemon>, Style, Value) -> Running;

/// What a command's arguments are once they are read, written as JSON.
type Typed = fn(Style, &Value) -> Result<Value, QmpError>;

/// A command that runs.
type Running = Pin<Box<dyn Future<Output = Result<Value, QmpError>>>>;

/// One command. Made from an `async fn` that takes the daemon and its arguments as one type.
pub(super) struct Command {
    name: &'static str,
    place: Place,
    is_oob: bool,
    age: Age,
    run: Box<Run>,
    typed: Typed,
    describe: fn(&mut Schema, &Self),
}

impl Command {
    /// The command `name`, which is carried out by `run`.
    pub(super) fn new<A, R, F>(name: &'static str, run: F) -> Self
    where
        A: Qapi + 'static,
        R: Qapi + 'static,
        F: AsyncFn(&Rc<Daemon>, A) -> Result<R, QmpError> + 'static,
    {
        let run = Rc::new(run);
        let run = move |daemon: Rc<Daemon>, style: Style, value: Value| -> Running {
            let run = run.clone();
            Box::pin(async move {
                let arguments = A::read(Input::new(&value, style))?;
                run(&daemon, arguments).await.map(|result| result.write())
            })
        };
        Self {
            name,
            place: Place::Everywhere,
            is_oob: false,
            age: Age::Current,
            run: Box::new(run),
            typed: |style, value| A::read(Input::new(value, style)).map(|it| it.write()),
            describe: |schema, command| {
                let order = if command.is_oob {
                    Order::OutOfBand
                } else {
                    Order::InBand
                };
                schema.command::<A, R>(command.name, order, command.age);
            },
        }
    }

    /// The same, also out of order and beside a command that runs: it must neither wait nor take long.
    #[expect(dead_code, reason = "no command of ours is urgent enough yet")]
    pub(super) fn oob(mut self) -> Self {
        self.is_oob = true;
        self
    }

    /// The same, for clients that do not know better yet.
    pub(super) fn deprecated(mut self) -> Self {
        self.age = Age::Deprecated;
        self
    }

    /// The same, for the command line only: clients do not see it.
    pub(super) fn line_only(mut self) -> Self {
        self.place = Place::Line;
        self
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it may run out of order.
    pub(super) fn is_oob(&self) -> bool {
        self.is_oob
    }

    /// Reads the arguments and runs the command.
    pub(super) fn run(&self, daemon: &Rc<Daemon>, style: Style, arguments: Value) -> Running {
        (self.run)(daemon.clone(), style, arguments)
    }

    /// The arguments with each value in its own type, as JSON has it.
    pub(super) fn typed(&self, style: Style, arguments: &Value) -> Result<Value, QmpError> {
        (self.typed)(style, arguments)
    }

    /// Adds the command and its types to what clients can ask for.
    pub(super) fn describe(&self, schema: &mut Schema) {
        (self.describe)(schema, self);
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("place", &self.place)
            .field("is_oob", &self.is_oob)
            .field("age", &self.age)
            .finish_non_exhaustive()
    }
}

/// All commands by name.
#[derive(Debug)]
pub(super) struct Commands {
    by_name: BTreeMap<&'static str, Command>,
}

impl Commands {
    /// The commands of all files.
    pub(super) fn all() -> Self {
        let files = [
            misc::commands(),
            objects::commands(),
            chardev::commands(),
            monitor::commands(),
            nodes::commands(),
            bitmaps::commands(),
            jobs::commands(),
            transaction::commands(),
            exports::commands(),
        ];
        let commands = files.into_iter().flatten();
        let by_name = commands.map(|command| (command.name, command));
        Self {
            by_name: by_name.collect(),
        }
    }

    /// Those that clients may use, by name.
    pub(super) fn of_clients(&self) -> impl Iterator<Item = &Command> {
        let commands = self.by_name.values();
        commands.filter(|command| command.place == Place::Everywhere)
    }

    /// The command that a client asks for.
    pub(super) fn of_client(&self, name: &str) -> Result<&Command, QmpError> {
        let command = self.by_name.get(name);
        let command = command.filter(|command| command.place == Place::Everywhere);
        command.ok_or_else(|| QmpError::unknown_command(name))
    }

    /// The command that an option of the command line stands for.
    pub(super) fn of_line(&self, name: &str) -> Option<&Command> {
        self.by_name.get(name)
    }
}
