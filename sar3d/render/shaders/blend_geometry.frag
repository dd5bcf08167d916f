layout(location = 0) out vec4 out_geometry;

void main() {
    if (base_color().a < surface.x || beyond_triangle()) discard;
    out_geometry = geometry(facing_normal());
}
