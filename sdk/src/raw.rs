//! Generated bindings. Policies use the types of this crate instead.
//!
//! The worlds of the WIT file share the interface `about`, and one crate can generate the export of
//! an interface only once. So each interface has a part of a world here; a component that exports
//! two of them is encoded as their union, which is the world of the WIT file.
#![allow(missing_docs, unreachable_pub, clippy::all)]

pub mod about {
    wit_bindgen::generate!({
        inline: "
            package staffetta:sdk;
            world about-part {
                import staffetta:policy/types@0.1.0;
                import staffetta:policy/log@0.1.0;
                export staffetta:policy/about@0.1.0;
            }
        ",
        path: "../wit",
        world: "staffetta:sdk/about-part",
        pub_export_macro: true,
        export_macro_name: "export_about",
        generate_unused_types: true,
        generate_all,
    });
}

pub mod failover {
    wit_bindgen::generate!({
        inline: "
            package staffetta:sdk;
            world failover-part { export staffetta:policy/failover@0.1.0; }
        ",
        path: "../wit",
        world: "staffetta:sdk/failover-part",
        pub_export_macro: true,
        export_macro_name: "export_failover",
        generate_unused_types: true,
        with: {
            "staffetta:policy/types@0.1.0": crate::raw::types,
            "staffetta:policy/failover@0.1.0": generate,
        },
    });
}

pub mod license {
    wit_bindgen::generate!({
        inline: "
            package staffetta:sdk;
            world license-part { export staffetta:policy/license@0.1.0; }
        ",
        path: "../wit",
        world: "staffetta:sdk/license-part",
        pub_export_macro: true,
        export_macro_name: "export_license",
        generate_unused_types: true,
        with: {
            "staffetta:policy/types@0.1.0": crate::raw::types,
            "staffetta:policy/license@0.1.0": generate,
        },
    });
}

pub mod split_brain {
    wit_bindgen::generate!({
        inline: "
            package staffetta:sdk;
            world split-brain-part { export staffetta:policy/split-brain@0.1.0; }
        ",
        path: "../wit",
        world: "staffetta:sdk/split-brain-part",
        pub_export_macro: true,
        export_macro_name: "export_split_brain",
        generate_unused_types: true,
        with: {
            "staffetta:policy/types@0.1.0": crate::raw::types,
            "staffetta:policy/split-brain@0.1.0": generate,
        },
    });
}

pub use about::staffetta::policy::{log, types};
