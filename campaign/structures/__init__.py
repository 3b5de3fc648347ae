"""Atomic models: settings in, ``ase.Atoms`` with realised strain, layers and groups out.

For calculations and scripts::

    from campaign.structures.materials import MATERIALS
    from campaign.structures.stack import stack_of_one          # monolayer, bilayer, multilayer, bulk
    bulk = stack_of_one(MATERIALS["mos2"], 2, vacuum_A=None)

    from campaign.structures.blocks import LayerBlock, Match, MultilayerSettings
    from campaign.structures.layers import BuildSettings, build, realised   # two blocks with an interface
    pair = MultilayerSettings(
        lower=LayerBlock(material="mos2", layers=5),
        upper=LayerBlock(material="graphene", layers=5),
        match=Match(max_atoms=400),
        cell_from="mean",
    )
    settings = BuildSettings.of(pair, {"mos2": 3.118, "graphene": 2.492})
    realised(settings).strain, len(build(settings))

`campaign.structures.commensurate.commensurate_cells` lists common cells of two lattices.
"""
