"""Model families: one small file each that says where its layers are."""
