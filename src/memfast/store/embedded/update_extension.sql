-- After an upgrade: the objects of the extension in the version of the new installation.
ALTER EXTENSION vector UPDATE;
