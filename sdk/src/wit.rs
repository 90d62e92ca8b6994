//! One definition for each WIT type: the Rust type, its JSON form, its form in the component model
//! (feature `host`), and the conversion from and to the generated bindings (in a component).
//!
//! Names in quotes are the names of the WIT file; they are what the JSON and the components use.

/// A record: a struct with public fields. Missing JSON fields take their default, unknown ones are
/// refused.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $ty:ty = $wit:tt,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[cfg_attr(feature = "host", derive(
            wasmtime::component::ComponentType,
            wasmtime::component::Lift,
            wasmtime::component::Lower,
        ))]
        #[cfg_attr(feature = "host", component(record))]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(rename = $wit)]
                #[cfg_attr(feature = "host", component(name = $wit))]
                pub $field: $ty,
            )*
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<raw::$name> for $name {
            fn convert(self) -> raw::$name {
                raw::$name { $($field: $crate::wit::Convert::convert(self.$field),)* }
            }
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<$name> for raw::$name {
            fn convert(self) -> $name {
                $name { $($field: $crate::wit::Convert::convert(self.$field),)* }
            }
        }
    };
}

/// An enum: a closed list of cases. The default is marked with `#[default]`.
macro_rules! closed {
    ($(#[$meta:meta])* $name:ident { $($(#[$case_meta:meta])* $case:ident = $wit:tt,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "host", derive(
            wasmtime::component::ComponentType,
            wasmtime::component::Lift,
            wasmtime::component::Lower,
        ))]
        #[cfg_attr(feature = "host", component(enum))]
        #[repr(u8)]
        pub enum $name {
            $(
                $(#[$case_meta])*
                #[serde(rename = $wit)]
                #[cfg_attr(feature = "host", component(name = $wit))]
                $case,
            )*
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$case => $wit,)* })
            }
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<raw::$name> for $name {
            fn convert(self) -> raw::$name {
                match self { $(Self::$case => raw::$name::$case,)* }
            }
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<$name> for raw::$name {
            fn convert(self) -> $name {
                match self { $(Self::$case => $name::$case,)* }
            }
        }
    };
}

/// A variant: cases without and with a payload.
macro_rules! variant {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$case_meta:meta])* $case:ident $(($payload:ty))? = $wit:tt,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "host", derive(
            wasmtime::component::ComponentType,
            wasmtime::component::Lift,
            wasmtime::component::Lower,
        ))]
        #[cfg_attr(feature = "host", component(variant))]
        pub enum $name {
            $(
                $(#[$case_meta])*
                #[serde(rename = $wit)]
                #[cfg_attr(feature = "host", component(name = $wit))]
                $case $(($payload))?,
            )*
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<raw::$name> for $name {
            fn convert(self) -> raw::$name {
                match self {
                    $(
                        Self::$case $(($crate::wit::bind!($payload, payload)))? => raw::$name::$case
                            $(($crate::wit::Convert::convert(
                                $crate::wit::bind!($payload, payload),
                            )))?,
                    )*
                }
            }
        }

        #[cfg(target_arch = "wasm32")]
        impl $crate::wit::Convert<$name> for raw::$name {
            fn convert(self) -> $name {
                match self {
                    $(
                        Self::$case $(($crate::wit::bind!($payload, payload)))? => $name::$case
                            $(($crate::wit::Convert::convert(
                                $crate::wit::bind!($payload, payload),
                            )))?,
                    )*
                }
            }
        }
    };
}

/// The name of a payload, for cases that have one.
#[cfg(target_arch = "wasm32")]
macro_rules! bind {
    ($payload:ty, $name:ident) => {
        $name
    };
}

#[cfg(target_arch = "wasm32")]
pub(crate) use bind;
pub(crate) use {closed, record, variant};

/// Moves a value between the SDK's types and the generated ones.
#[cfg(target_arch = "wasm32")]
pub trait Convert<T> {
    /// The same value on the other side.
    fn convert(self) -> T;
}

#[cfg(target_arch = "wasm32")]
mod plain {
    use super::Convert;

    macro_rules! same {
        ($($ty:ty,)*) => { $(impl Convert<$ty> for $ty { fn convert(self) -> $ty { self } })* };
    }
    same!(bool, u8, u16, u32, u64, i16, i64, String, (u64, u64),);

    impl<A: Convert<B>, B> Convert<Vec<B>> for Vec<A> {
        fn convert(self) -> Vec<B> {
            self.into_iter().map(Convert::convert).collect()
        }
    }

    impl<A: Convert<B>, B> Convert<Option<B>> for Option<A> {
        fn convert(self) -> Option<B> {
            self.map(Convert::convert)
        }
    }
}
