//! The client of the cloud API, generated from `openapi/yun.json`, with the nouns of `types` instead of copies of them.

mod generated {
    progenitor::generate_api!(
        spec = "../../openapi/yun.json",
        interface = Builder,
        tags = Merged,
        timeout = 90,
        replace = {
            Accel = yun_types::Accel,
            AuditRecord = yun_types::AuditRecord,
            AuditRecordPage = crate::cloud::Page<yun_types::AuditRecord>,
            BackgroundTask = crate::cloud::BackgroundTask,
            Digest = yun_types::Digest,
            Explanation = yun_types::Explanation,
            Image = yun_types::Image,
            ImageCreate = crate::cloud::ImageCreate,
            ImageFormat = yun_types::ImageFormat,
            ImagePage = crate::cloud::Page<yun_types::Image>,
            Instance = yun_types::Instance,
            InstanceAction = crate::cloud::InstanceAction,
            InstanceCreate = crate::cloud::InstanceCreate,
            InstancePage = crate::cloud::Page<yun_types::Instance>,
            InstanceUpdate = crate::cloud::InstanceUpdate,
            Name = yun_types::Name,
            NameOrId = yun_types::NameOrId,
            Network = yun_types::Network,
            NetworkPage = crate::cloud::Page<yun_types::Network>,
            Node = yun_types::Node,
            NodePage = crate::cloud::Page<yun_types::Node>,
            NodeSpec = yun_types::NodeSpec,
            ObjectKind = yun_types::ObjectKind,
            Operation = yun_types::Operation,
            OperationPage = crate::cloud::Page<yun_types::Operation>,
            Ping = crate::cloud::Ping,
            Project = yun_types::Project,
            ProjectCreate = crate::cloud::ProjectCreate,
            ProjectPage = crate::cloud::Page<yun_types::Project>,
            ProjectSpec = yun_types::ProjectSpec,
            Token = yun_types::Token,
            TokenCreate = crate::cloud::TokenCreate,
            TokenCreated = crate::cloud::TokenCreated,
            TokenPage = crate::cloud::Page<yun_types::Token>,
            Whoami = crate::cloud::Whoami,
        },
    );
}

pub use generated::*;
