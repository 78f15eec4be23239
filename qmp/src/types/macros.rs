//! The macros that define types; the head of the crate shows them at work.

/// The wire name of an identifier, as a constant text: `job_id` and `JobId` become `job-id`.
#[doc(hidden)]
#[macro_export]
macro_rules! wire_name {
    ($name:ident = $wire:literal) => {
        $wire
    };
    ($name:ident) => {{
        const NAME: &str = stringify!($name);
        const BYTES: &[u8] = &$crate::types::kebab::<{ $crate::types::kebab_len(NAME) }>(NAME);
        const WIRE: &str = match ::core::str::from_utf8(BYTES) {
            Ok(wire) => wire,
            Err(_) => NAME,
        };
        WIRE
    }};
}

/// Defines an object; see the head of the crate.
#[macro_export]
macro_rules! qapi_struct {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$doc:meta])* $member:ident $(= $wire:literal)? : $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[$doc])* $vis $member: $type,)*
        }

        impl $crate::types::Members for $name {
            fn read_members(
                fields: &mut $crate::types::Fields<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                let _ = &fields;
                Ok(Self {
                    $($member: fields.member($crate::wire_name!($member $(= $wire)?))?,)*
                })
            }

            fn write_members(&self, members: &mut $crate::Map) {
                let _ = &members;
                $($crate::types::Qapi::write_member(
                    &self.$member,
                    $crate::wire_name!($member $(= $wire)?),
                    members,
                );)*
            }

            fn describe_members(
                schema: &mut $crate::schema::Schema,
            ) -> ::std::vec::Vec<$crate::schema::Member> {
                let _ = &schema;
                ::std::vec![
                    $($crate::schema::Member::of::<$type>(
                        $crate::wire_name!($member $(= $wire)?),
                        schema,
                    )),*
                ]
            }
        }

        impl $crate::types::Qapi for $name {
            const KIND: $crate::types::Kind = $crate::types::Kind::Object;

            fn read(
                input: $crate::types::Input<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                $crate::types::read_object(input)
            }

            fn write(&self) -> $crate::Value {
                $crate::types::write_object(self)
            }

            fn describe(schema: &mut $crate::schema::Schema) -> $crate::types::TypeName {
                schema.object::<Self>()
            }
        }
    };
}

/// Defines an enumeration; see the head of the crate.
#[macro_export]
macro_rules! qapi_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$doc:meta])* $variant:ident $(= $wire:literal)?),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them, in their order.
            $vis const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name on the wire.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $crate::wire_name!($variant $(= $wire)?),)+
                }
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::types::Qapi for $name {
            const KIND: $crate::types::Kind = $crate::types::Kind::String;

            fn read(
                input: $crate::types::Input<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                let text = input.string()?;
                let found = Self::ALL.iter().find(|value| value.as_str() == text);
                found.copied().ok_or_else(|| input.invalid_value(text))
            }

            fn write(&self) -> $crate::Value {
                $crate::Value::from(self.as_str())
            }

            fn describe(schema: &mut $crate::schema::Schema) -> $crate::types::TypeName {
                let values = Self::ALL.iter().map(|value| value.as_str());
                schema.enumeration::<Self>(values)
            }
        }
    };
}

/// Defines a flat union; see the head of the crate.
#[macro_export]
macro_rules! qapi_union {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$doc:meta])* $member:ident $(= $wire:literal)? : $type:ty),* $(,)?
        }
        $(#[$tag_meta:meta])*
        tag $tag:ident $(= $tag_wire:literal)? : $tag_type:ident,
        $branches_vis:vis enum $branches:ident {
            $($(#[$branch_doc:meta])* $branch:ident ($branch_type:ty) $(= $branch_wire:literal)?),+
            $(,)?
        }
    ) => {
        $crate::qapi_enum! {
            $(#[$tag_meta])*
            $branches_vis enum $tag_type {
                $($(#[$branch_doc])* $branch $(= $branch_wire)?),+
            }
        }

        $(#[$tag_meta])*
        #[derive(Debug, Clone, PartialEq)]
        $branches_vis enum $branches {
            $($(#[$branch_doc])* $branch($branch_type),)+
        }

        impl $branches {
            /// Which of them it is.
            $branches_vis fn tag(&self) -> $tag_type {
                match self {
                    $(Self::$branch(_) => $tag_type::$branch,)+
                }
            }
        }

        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[$doc])* $vis $member: $type,)*
            $(#[$tag_meta])*
            $vis $tag: $branches,
        }

        impl $crate::types::Members for $name {
            fn read_members(
                fields: &mut $crate::types::Fields<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                let tag = fields.member($crate::wire_name!($tag $(= $tag_wire)?))?;
                Ok(Self {
                    $($member: fields.member($crate::wire_name!($member $(= $wire)?))?,)*
                    $tag: match tag {
                        $($tag_type::$branch => $branches::$branch(
                            <$branch_type as $crate::types::Members>::read_members(fields)?,
                        ),)+
                    },
                })
            }

            fn write_members(&self, members: &mut $crate::Map) {
                $crate::types::Qapi::write_member(
                    &self.$tag.tag(),
                    $crate::wire_name!($tag $(= $tag_wire)?),
                    members,
                );
                $($crate::types::Qapi::write_member(
                    &self.$member,
                    $crate::wire_name!($member $(= $wire)?),
                    members,
                );)*
                match &self.$tag {
                    $($branches::$branch(branch) => {
                        $crate::types::Members::write_members(branch, members);
                    })+
                }
            }

            fn describe_members(
                schema: &mut $crate::schema::Schema,
            ) -> ::std::vec::Vec<$crate::schema::Member> {
                ::std::vec![
                    $crate::schema::Member::of::<$tag_type>(
                        $crate::wire_name!($tag $(= $tag_wire)?),
                        schema,
                    ),
                    $($crate::schema::Member::of::<$type>(
                        $crate::wire_name!($member $(= $wire)?),
                        schema,
                    )),*
                ]
            }
        }

        impl $crate::types::Qapi for $name {
            const KIND: $crate::types::Kind = $crate::types::Kind::Object;

            fn read(
                input: $crate::types::Input<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                $crate::types::read_object(input)
            }

            fn write(&self) -> $crate::Value {
                $crate::types::write_object(self)
            }

            fn describe(schema: &mut $crate::schema::Schema) -> $crate::types::TypeName {
                schema.union::<Self>($crate::wire_name!($tag $(= $tag_wire)?), |schema| {
                    ::std::vec![$((
                        $tag_type::$branch.as_str(),
                        <$branch_type as $crate::types::Qapi>::describe(schema),
                    )),+]
                })
            }
        }
    };
}

/// Defines an alternate; see the head of the crate.
#[macro_export]
macro_rules! qapi_alternate {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$doc:meta])* $variant:ident ($type:ty)),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis enum $name {
            $($(#[$doc])* $variant($type),)+
        }

        impl $crate::types::Qapi for $name {
            const KIND: $crate::types::Kind = $crate::types::Kind::Any;

            fn read(
                input: $crate::types::Input<'_>,
            ) -> ::core::result::Result<Self, $crate::QmpError> {
                const KINDS: &[$crate::types::Kind] =
                    &[$(<$type as $crate::types::Qapi>::KIND),+];
                let chosen = input.choose(KINDS);
                let mut index = 0..;
                $(if chosen.is_some() && chosen == index.next() {
                    return <$type as $crate::types::Qapi>::read(input).map(Self::$variant);
                })+
                Err(input.invalid_choice(stringify!($name)))
            }

            fn write(&self) -> $crate::Value {
                match self {
                    $(Self::$variant(value) => $crate::types::Qapi::write(value),)+
                }
            }

            fn describe(schema: &mut $crate::schema::Schema) -> $crate::types::TypeName {
                schema.alternate::<Self>(|schema| {
                    ::std::vec![$(<$type as $crate::types::Qapi>::describe(schema)),+]
                })
            }
        }
    };
}

/// Defines the events that there are; see the head of the crate.
#[macro_export]
macro_rules! qapi_events {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$doc:meta])* $event:ident ($data:ty) = $wire:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis enum $name {
            $($(#[$doc])* $event($data),)+
        }

        impl $name {
            /// Its name on the wire.
            $vis fn name(&self) -> &'static str {
                match self {
                    $(Self::$event(_) => $wire,)+
                }
            }

            /// Its data on the wire.
            $vis fn data(&self) -> $crate::Value {
                match self {
                    $(Self::$event(data) => $crate::types::Qapi::write(data),)+
                }
            }

            /// Enters all of them into the schema.
            $vis fn describe(schema: &mut $crate::schema::Schema) {
                $(schema.event::<$data>($wire);)+
            }
        }
    };
}
